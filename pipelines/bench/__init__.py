"""Scoring and running methods on executors."""
