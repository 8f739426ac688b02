"""Numbers that were not measured, from numbers that were: lines, effects of knobs, and errors of times."""
