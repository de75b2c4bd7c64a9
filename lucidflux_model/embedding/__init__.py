"""Vectors of images by published networks, from files on this machine."""
