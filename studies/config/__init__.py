"""What a user writes: the study file, presets, and the reference page."""
