"""Leaderboard and throughput measurements."""
