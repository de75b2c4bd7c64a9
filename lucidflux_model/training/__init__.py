"""The trainer: a plain loop, exact resume, one process or many."""
