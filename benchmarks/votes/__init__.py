"""Votes of people: a page that asks which of two outputs is better, and what follows from the answers."""
