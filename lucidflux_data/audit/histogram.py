"""The histogram of a score of a run: all images that have it, and those that are kept, with the limits as lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lucidflux_data.page.charts import Chart, short

FEWEST, MOST = 24, 240  # bins; the chart zooms
TITLES = {"laplacian_variance": "Sharpness", "flat_fraction": "Flat patches"}
WHAT = {"laplacian_variance": "variance of the Laplacian", "flat_fraction": "share of the patches without detail"}


def make_histogram(table: pa.Table, score: str, limits: Sequence[tuple[str, float]]) -> Chart | None:
    """Of a ledger with `keep` and `score`; None where no image has a finite score. `limits`: (word, value)."""
    values = table[score].to_numpy()
    there = np.isfinite(values)
    if not there.any():
        return None
    values, kept = values[there].astype(np.float64), table["keep"].to_numpy(zero_copy_only=False)[there]
    log = score == "laplacian_variance"
    scaled, marks = _scale(values, log), _scale(np.array([limit for _, limit in limits], np.float64), log)
    ends = np.concatenate([scaled, marks])
    low, high = float(ends.min()), float(ends.max())
    bins = int(np.clip(2 * np.sqrt(len(values)), FEWEST, MOST))
    all_, edges = np.histogram(scaled, bins, (low, high if high > low else low + 1))
    inside, _ = np.histogram(scaled[kept], edges)
    spoken = f"{len(values):,} images from {short(values.min())} to {short(values.max())}"
    return {
        "kind": "bars",
        "title": TITLES.get(score, f"Score: {score}"),
        "note": WHAT.get(score, ""),
        "spoken": f"{spoken}, half of them up to {float(np.median(values)):.4g}",
        "x_title": score,
        "log": log,
        "x": [float(f"{edge:.7g}") for edge in edges],
        "series": [
            {"name": "images", "values": [int(count) for count in all_]},
            {"name": "kept", "values": [int(count) for count in inside]},
        ],
        "marks": [
            {"at": float(f"{at:.7g}"), "text": f"{word} {short(limit)}"}
            for (word, limit), at in zip(limits, marks, strict=True)
        ],
    }


def _scale(values: np.ndarray, log: bool) -> np.ndarray:
    return np.log10(np.maximum(values, 0) + 1) if log else values
