"""Scripts that measure what docs/performance.md states, as ratios inside one run."""
