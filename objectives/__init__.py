"""One trial: the job, the trial's own process, its meters, and the outcome that it returns."""
