"""The configuration of a study: the study file, presets, checks, and the reference page."""
