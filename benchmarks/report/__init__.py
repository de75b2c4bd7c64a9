"""The views of a leaderboard: terminal, Markdown, LaTeX, CSV, JSON and one page."""
