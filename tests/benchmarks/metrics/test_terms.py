"""Sums of columns: the organisers' formula, written once more; what lacks a term; what their max does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.metrics import terms
from benchmarks.metrics.profiles import load_profile
from benchmarks.metrics.score import PER_IMAGE
from benchmarks.ranking import rank
from tests.benchmarks.conftest import PHOTOS


def by_organisers(lpips: float, dists: float, clipiqa: float, maniqa: float, musiq: float, niqe: float) -> float:
    return (1 - lpips) + (1 - dists) + clipiqa + maniqa + musiq / 100 + max(0, (10 - niqe) / 10)


def scores(seed: int, niqe: float, images: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {name: rng.uniform(0, 1, images) for name in ("lpips", "dists", "clipiqa", "maniqa")}
    return {**found, "musiq": rng.uniform(20, 80, images), "niqe": rng.normal(niqe, 2, images)}


def table_of(values: dict[str, np.ndarray], **holes: int) -> pa.Table:
    rows = [
        {"suite": "s", "method": "m", "seed": "0", "id": str(k), "metric": name, "seconds": 0.0,
         "value": None if holes.get(name) == k else float(value), "reason": "missing" if holes.get(name) == k else None}
        for name, column in values.items() for k, value in enumerate(column)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, PER_IMAGE)


def test_the_average_of_sums_is_the_organisers_sum_of_averages() -> None:
    for seed in range(5):
        values = scores(seed, niqe=6)
        sums = terms.sum_table(terms.NTIRE, table_of(values))["value"].to_numpy()
        means = {name: column.mean() for name, column in values.items()}
        assert sums.mean() == pytest.approx(by_organisers(**means))
    values = scores(9, niqe=14)
    means = {name: {"m": float(column.mean())} for name, column in values.items()}
    (line,) = terms.clamped_notes({**means, terms.NTIRE: {"m": 0.0}})
    assert line.endswith(f" is {by_organisers(**{name: row['m'] for name, row in means.items()}):.4f}.")
    assert terms.clamped_notes(means) == []


def test_an_image_that_lacks_a_term_has_its_reason() -> None:
    rows = terms.sum_table(terms.NTIRE, table_of(scores(0, 6), maniqa=3)).to_pylist()
    assert [row["id"] for row in rows if row["value"] is None] == ["3"]
    assert {row["reason"] for row in rows} == {"missing", None}


def test_the_profile_has_every_term_and_says_which_are_not_there(photos, tmp_path, monkeypatch) -> None:
    profile = load_profile("ntire-perceptual")
    assert {spec.name for spec in profile.metrics} >= {terms.NTIRE, *terms.TERMS[terms.NTIRE]}
    for name in ("TORCH_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "LUCIDFLUX_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path))
    board = rank({"a": photos / "methods/lanczos"}, gt=photos / "gt", profile="ntire-perceptual",
                 cache=tmp_path / "cache", ids=PHOTOS[:1]).board  # fmt: skip
    assert "niqe" in board["metrics"]
    why = board["not_computed"][terms.NTIRE]
    assert why == "ntire-2025 is a sum over lpips, dists, clipiqa, maniqa, musiq, which are not computed"
