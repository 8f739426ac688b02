"""Search methods compared on tables of measured jobs."""
