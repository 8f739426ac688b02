"""The devices that trials run on: one class per kind, with its memory, limits, meters and clock."""
