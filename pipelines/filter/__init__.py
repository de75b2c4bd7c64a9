"""The filter: list, score, select, pack, verify, retry, estimate."""
