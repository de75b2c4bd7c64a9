"""Profiles of metrics, their weights, and the scoring of saved files."""
