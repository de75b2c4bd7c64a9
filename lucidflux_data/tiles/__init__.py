"""Tiles of an image: where they lie, what they measure, and which crops lie in good ones."""
