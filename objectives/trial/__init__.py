"""Everything inside a trial's own process: the probe, the training, and their measurements."""
