"""Traces a training step on fake tensors. Each private name of torch is used in one file, which `tests/` checks."""
