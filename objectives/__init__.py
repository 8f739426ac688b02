"""What one trial does and measures: the job, the trial's own process, its meters, and the outcome it answers with."""
