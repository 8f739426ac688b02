"""Traces a training step on fake tensors: every name that torch keeps private is used here."""
