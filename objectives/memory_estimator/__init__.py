"""Estimates the peak memory of a training run without a GPU: traces it on fake tensors, and replays torch's allocator."""
