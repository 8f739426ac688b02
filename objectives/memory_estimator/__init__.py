"""Predicting the peak memory of a training step without a GPU: trace it on fake tensors, replay torch's allocator."""
