"""Weights files: where they are, what layout they have, whether they are the published ones."""
