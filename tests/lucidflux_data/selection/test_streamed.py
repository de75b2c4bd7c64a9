"""The ledger is the same, byte for byte, however many units are read at a time; and it is what plain Python decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks.throughput.large.generated import generate_run
from lucidflux_data.errors import InputError
from lucidflux_data.selection import ledger, pool, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import make_config
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import checked_bytes

CONFIG = make_config("lucidflux", settings=["iqa.metric=niqe", "cut.top_fraction=0.31"])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 700 candidates in 88 units, and one of 1100 whose first 700 have the same uris. Some have equal bytes,
    many an equal score, and one unit of scores is missing, as before it is measured."""
    place = tmp_path_factory.mktemp("streamed")
    for name, rows in (("a", 700), ("b", 1100)):
        folder = Folder(place / name)
        generate_run(folder, rows)
        _edit(folder)
    return place


def _edit(folder: Folder) -> None:
    first = runs.read_unit(folder, "basic", 0).to_pylist()
    for number in range(0, 80, 7):  # row 3 has the bytes of row 3 of the first unit
        rows = runs.read_unit(folder, "basic", number).to_pylist()
        if rows[3]["status"] == "ok" and first[3]["status"] == "ok":
            rows[3] |= {"key": first[3]["key"], "sha256": first[3]["sha256"]}
        table = pa.Table.from_pylist(rows, runs.read_unit(folder, "basic", number).schema)
        folder.publish(f"{runs.BASIC}/{run_folder.unit_name(number)}.parquet", checked_bytes(table))
    for number, table in runs.read_measure(folder, "niqe").items():
        rounded = table.set_column(2, table.schema.field(2), pc.round(table["niqe"], 1))
        folder.publish(f"scores/niqe/{run_folder.unit_name(number)}.parquet", checked_bytes(rounded))


def _ledger_of(parts: list[runs.Part], out: Path) -> bytes:
    folder = Folder(out)
    ledger.write_ledger(folder, load_pool(parts), CONFIG)
    return folder.read(runs.LEDGER)


def _parts(place: Path) -> list[runs.Part]:
    return [runs.Part(Folder(place / "a"), 700), runs.Part(Folder(place / "b"), 1100)]


@pytest.mark.parametrize("which", [slice(1), slice(1, 2), slice(2)], ids=["a", "b", "both"])
def test_the_ledger_does_not_depend_on_what_is_read_at_a_time(
    which: slice, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _parts(scored)[which]
    whole = _ledger_of(parts, tmp_path / "whole")
    for rows in (1, 40, 300):
        monkeypatch.setattr(pool, "ROWS_IN_GROUP", rows)
        assert _ledger_of(parts, tmp_path / str(rows)) == whole
    _compare_with_plain(scored, parts, Folder(tmp_path / "whole").read_table(runs.LEDGER))


def _compare_with_plain(place: Path, parts: list[runs.Part], table: pa.Table) -> None:
    limits, scores = CONFIG.rules, dict[str, float]()
    rows, uris, keys = list[dict[str, Any]](), set[str](), set[str]()
    for part in parts:
        for row in runs.read_basic(part.folder).to_pylist():
            rows += [] if row["uri"] in uris else [row]
            uris.add(row["uri"])
        for unit in runs.read_measure(part.folder, "niqe").values():
            scores |= {row["uri"]: row["niqe"] for row in unit.to_pylist() if row["uri"] not in scores}
    reasons: list[str | None] = []
    for row in rows:
        reason = row["reason"]
        if reason is None and row["key"] in keys:
            reason = "duplicate"
        elif reason is None:
            keys.add(row["key"])
            if min(row["width"], row["height"]) < limits.min_side:
                reason = "too_small"
            elif row["laplacian_variance"] < limits.min_laplacian_variance:
                reason = "too_blurry"
            elif row["laplacian_variance"] > limits.max_laplacian_variance:
                reason = "too_sharp"
            elif row["flat_fraction"] > limits.max_flat_fraction:
                reason = "too_flat"
        reasons.append(reason)
    alive = [number for number, reason in enumerate(reasons) if reason is None]
    ordered = sorted(alive, key=lambda number: (scores[rows[number]["uri"]], rows[number]["key"]))
    for number in ordered[len(ordered) * 31 // 100 :]:
        reasons[number] = "low_iqa"
    assert reasons.count("duplicate") >= 5
    assert table["uri"].to_pylist() == [row["uri"] for row in rows]
    assert table["reason"].to_pylist() == reasons
    ranks = {number: rank for rank, number in enumerate(ordered, 1)}
    assert table["rank"].to_pylist() == [ranks.get(number) for number in range(len(rows))]
    assert table["sha256"].to_pylist() == [row["sha256"] for row in rows]


def test_a_unit_with_other_rows_than_it_should_have_is_named(scored: Path) -> None:
    part = runs.Part(Folder(scored / "a"), 700)
    table = runs.read_unit(part.folder, "basic", 5)
    name = f"{runs.BASIC}/{run_folder.unit_name(5)}.parquet"
    before = part.folder.read(name)
    part.folder.publish(name, checked_bytes(table.slice(1)))
    try:
        with pytest.raises(InputError, match=r"unit-000005\.parquet is damaged"):
            load_pool([part])
    finally:
        part.folder.publish(name, before)


def test_scores_are_ordered_as_by_all_three_columns() -> None:
    rng = np.random.default_rng(0)
    for distinct in (1, 3, 50, 10**6):
        scores = rng.integers(0, distinct, 500) / 7 * rng.choice([-1, 1], 500)
        high, low = rng.integers(0, 4, 500).astype(np.uint64), rng.permutation(500).astype(np.uint16)
        assert np.array_equal(rules.order_scored(scores, high, low), np.lexsort((low, high, scores)))


def test_what_stands_twice_is_found() -> None:
    rng = np.random.default_rng(0)
    for distinct in (1, 5, 400, 2**63):
        values = rng.integers(0, distinct, 300, dtype=np.uint64)
        unique, counts = np.unique(values, return_counts=True)
        assert np.array_equal(rules._repeated(values), np.isin(values, unique[counts > 1]))
