"""A page on which the thresholds of a run are chosen by eye."""
