"""What earlier trials settle about configurations that were not run."""
