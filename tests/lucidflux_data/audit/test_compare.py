"""`diff` reads two ledgers in pieces, and says what dictionaries of all rows say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lucidflux_data.audit.compare import compare
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import table_chunks
from lucidflux_data.storage.run_folder import write_about

SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("key", pa.string()),
        pa.field("keep", pa.bool_()),
        pa.field("reason", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("niqe", pa.float64()),
    ]
)


def draw_rows(rng: np.random.Generator, names: list[int]) -> list[dict[str, Any]]:
    """A row for each name; one in twenty has other bytes than elsewhere, one in thirty could not be read."""
    rows, kept = [], set()
    for name in names:
        content = name if rng.random() > 0.05 else int(rng.integers(10**6, 10**9))
        sha256 = None if rng.random() < 1 / 30 else f"{content:064x}"[::-1]
        reason = "missing" if sha256 is None else [None, "too_blurry", "low_iqa"][rng.integers(3)]
        key = None if sha256 is None else sha256[:20]
        if key in kept:
            reason = "duplicate"
        kept |= {key} if reason is None else set()
        rows.append({"uri": f"file:///ä {name}", "key": key, "keep": reason is None, "reason": reason, "sha256": sha256,
                     "niqe": float(rng.normal()) if sha256 else None})  # fmt: skip
    return rows


def write(place: Path, rows: list[dict[str, Any]], group: int) -> Folder:
    table, folder = pa.Table.from_pylist(rows, SCHEMA), Folder(place)
    listed: runs.Listed = {"sources": [], "limit": None, "seed": None, "candidates": len(rows), "ignored": 0}
    write_about(folder, runs.make_run(make_config("lucidflux"), listed, "lucidflux"))
    starts = range(0, max(1, len(rows)), group)
    folder.publish(runs.LEDGER, table_chunks((table.slice(start, group) for start in starts), ["reason"]))
    return folder


def plain(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    kept = [{row["key"] for row in rows if row["keep"]} for rows in (before, after)]
    shas = {row["uri"]: row["sha256"] for row in before}

    def reasons(keys: set[str], other: list[dict[str, Any]]) -> dict[str, int]:
        known = {row["key"]: row["reason"] for row in other if row["reason"] != "duplicate"}
        return dict(Counter(known.get(key) or "not_a_candidate" for key in keys))

    return {
        "kept": {"first": len(kept[0]), "second": len(kept[1]), "both": len(kept[0] & kept[1])},
        "added": reasons(kept[1] - kept[0], before),
        "removed": reasons(kept[0] - kept[1], after),
        "changed": sum(shas.get(row["uri"]) not in (None, row["sha256"]) for row in after if row["sha256"]),
    }


@pytest.mark.parametrize("listed", ["same", "other order", "more", "fewer", "none"])
@pytest.mark.parametrize("group", [7, 64, 1000])
def test_two_ledgers_in_pieces_are_as_two_in_memory(listed: str, group: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    names = list(range(400))
    others = {"same": names, "other order": rng.permutation(400).tolist(), "more": [*range(-40, 460)],
              "fewer": names[::3], "none": []}[listed]  # fmt: skip
    before, after = draw_rows(rng, names), draw_rows(rng, others)
    found = compare(write(tmp_path / "a", before, group), write(tmp_path / "b", after, 64))
    expected = plain(before, after)
    assert {name: found[name] for name in expected} == expected  # type: ignore[literal-required]
    assert found["changed"] >= (listed != "none") * 5
    if listed != "none":
        values = [np.array([row["niqe"] for row in rows if row["keep"]]) for rows in (before, after)]
        assert found["scores"]["niqe"]["mean_first"] == pytest.approx(values[0].mean())
        assert found["scores"]["niqe"]["mean_second"] == pytest.approx(values[1].mean())
