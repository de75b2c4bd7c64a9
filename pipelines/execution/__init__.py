"""Runs units of work: on one machine or a Ray cluster, with the same bytes."""
