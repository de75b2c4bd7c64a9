"""Decides which candidates are kept: a pure function of the score tables."""
