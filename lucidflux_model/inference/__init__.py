"""Restores images: the diffusers pipeline, how its parts are loaded, colour alignment."""
