"""What happens inside a trial's own process: probe, training, and what they measure."""
