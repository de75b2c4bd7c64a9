"""What is seen of a training run: validation, the log, the report."""
