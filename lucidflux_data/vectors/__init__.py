"""Embeddings of images: groups of those that show the same, clusters, and how many of each kind are kept."""
