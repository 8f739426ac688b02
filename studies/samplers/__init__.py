"""What is run next: the decoupled search, and the samplers of Optuna."""
