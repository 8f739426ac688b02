"""Samplers: the decoupled search, and Optuna's own."""
