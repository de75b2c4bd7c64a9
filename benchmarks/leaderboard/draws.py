"""One Bootstrap for each number of images: all metrics and methods over as many images share it."""

from __future__ import annotations

import numpy as np

from benchmarks.leaderboard.columns import Column
from benchmarks.leaderboard.statistics import Bootstrap


class Draws:
    """Bootstraps by the number of images, and the resampled means that were asked for."""

    def __init__(self, resamples: int) -> None:
        self.resamples = resamples
        self._made: dict[int, Bootstrap] = {}
        self._means: dict[tuple[str, str], np.ndarray] = {}

    def over(self, images: int) -> Bootstrap:
        if images not in self._made:
            self._made[images] = Bootstrap(images, self.resamples)
        return self._made[images]

    def means(self, column: Column, method: str) -> np.ndarray:
        """(resamples,) means of a method over the ranked subset of a metric."""
        key = column.spec.name, method
        if key not in self._means:
            self._means[key] = self.over(len(column.subset)).means(column.scores(method))
        return self._means[key]
