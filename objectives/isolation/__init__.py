"""Runs each trial in a process of its own, and turns whatever becomes of it into an outcome."""
