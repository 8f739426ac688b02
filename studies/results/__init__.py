"""A stored study as values: its trials, its front, and the choice among them."""
