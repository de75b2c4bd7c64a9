"""A scored run of millions of generated rows."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import make_config
from lucidflux_data.sources import listing
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import checked_bytes, table_chunks

UNITS_IN_GROUP = 131  # of the inventory


def generate_run(folder: Folder, rows: int, workers: int = 1) -> None:
    """A scored run of random rows with the shares of the published funnel: 1% failed, half of the rest out by the
    cheap rules, the survivors with a score."""
    config = make_config("lucidflux", settings=["iqa.metric=niqe"])
    listed: runs.Listed = {"sources": ["file:///photos"], "limit": None, "seed": None, "candidates": rows, "ignored": 0}
    run_folder.write_about(folder, runs.make_run(config, listed, "lucidflux"))
    for measure in ("basic", "niqe"):
        Path(folder.path(f"scores/{measure}")).mkdir(parents=True)
    units = range(-(-rows // run_folder.unit_size(rows)))
    write = partial(_write_unit, folder, rows)
    with multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else contextlib.nullcontext() as pool:
        places = map(write, units) if pool is None else pool.imap(write, units, 8)
        folder.publish(run_folder.INVENTORY, table_chunks(_in_groups(places), []))


def _in_groups(places: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for place in places:
        waiting.append(place)
        if len(waiting) == UNITS_IN_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write_unit(folder: Folder, rows: int, number: int) -> pa.Table:
    """Writes the tables of a unit, without waiting for the disk. Gives its rows of the inventory."""
    size = run_folder.unit_size(rows)
    basic, scores, place = _generate_unit(number, number * size, min(size, rows - number * size))
    for measure, table in (("basic", basic), ("niqe", scores)):
        path = folder.path(f"scores/{measure}/{run_folder.unit_name(number)}.parquet")
        Path(path).write_bytes(checked_bytes(table))
    return place


def _generate_unit(seed: int, start: int, n: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)
    names = [f"photos/{(start + i) // 1000:05d}/{start + i:09d}.jpg" for i in range(n)]
    uris = [f"file:///{name}" for name in names]
    digits = rng.bytes(32 * n).hex()
    sha256 = [digits[64 * i : 64 * (i + 1)] for i in range(n)]
    failed = rng.random(n) < 0.01
    variance, flat = rng.lognormal(5.6, 1.2, n), rng.beta(1, 2, n)
    columns = {
        "key": [value[:20] for value in sha256],
        "uri": uris,
        "source_key": names,
        "sha256": sha256,
        "bytes": rng.integers(200_000, 9_000_000, n),
        "format": ["jpeg"] * n,
        "width": rng.integers(800, 6000, n).astype(np.int32),
        "height": rng.integers(800, 6000, n).astype(np.int32),
        "mode": ["RGB"] * n,
        "flags": [""] * n,
        "laplacian_variance": pa.array(variance, mask=failed),
        "flat_fraction": pa.array(flat, mask=failed),
        "status": np.where(failed, "failed", "ok"),
        "reason": pa.array(np.where(failed, "truncated", ""), mask=~failed),
        "detail": pa.array(np.where(failed, "the file ends before the picture does", ""), mask=~failed),
    }
    basic = pa.table({name: pa.array(column) for name, column in columns.items()}).cast(records.BASIC)
    rules = make_config("lucidflux").rules
    inside = (variance >= rules.min_laplacian_variance) & (variance <= rules.max_laplacian_variance)
    chosen = np.flatnonzero(~failed & inside & (flat <= rules.max_flat_fraction))
    scores = pa.table(
        {
            "uri": [uris[i] for i in chosen],
            "key": [sha256[i][:20] for i in chosen],
            "niqe": rng.normal(5, 1, len(chosen)),
            "reason": pa.nulls(len(chosen), pa.string()),
        }
    ).cast(records.measure_schema("niqe"))
    place = pa.table(
        {"uri": uris, "source_key": names, "source": [0] * n, "size": columns["bytes"], "offset": [-1] * n}
    )
    return basic, scores, place.append_column("side", pa.nulls(n, pa.string())).cast(listing.INVENTORY)
