"""Launches the trainer: in this process, by torchrun, or on Ray Train."""
