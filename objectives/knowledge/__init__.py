"""Models of memory, time, energy and learning, fitted to the trials of a study."""
