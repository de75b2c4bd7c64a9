"""Measuring scripts of single parts: tiles, vectors."""
