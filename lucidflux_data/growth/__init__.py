"""A published set that is added to: its images stay, and so do the bytes of its shards."""
