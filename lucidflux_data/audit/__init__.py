"""Looks at a finished run: its report, checks, comparisons, and taking images out again."""
