"""Many workers of a study, on one machine or on a Ray cluster."""
