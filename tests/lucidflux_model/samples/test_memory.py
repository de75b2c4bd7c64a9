"""What a pair costs in every process that reads: measured on made-up indexes, and told for a set of full size."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import table_bytes
from lucidflux_model.samples.cached import DECODER, EXTENSIONS, Sidecars
from lucidflux_model.samples.stored import MEMBERS, OwnFolder, ShardPairs
from lucidflux_model.samples.stream import Order, split

SHARDS, EACH = 20, 1000
PAIRS = SHARDS * EACH


def keys(shard: int) -> list[str]:
    """As `synthesize` names pairs: four variants of an image."""
    return [f"{shard * EACH + i // 4:020x}_{i % 4:02d}" for i in range(EACH)]


def pairs_table() -> pa.Table:
    rng, columns = np.random.default_rng(0), {}
    sizes = rng.integers(100_000, 1_200_000, (PAIRS, 3))
    ends = np.concatenate([np.cumsum(sizes[first : first + EACH].sum(1)) for first in range(0, PAIRS, EACH)])
    for number, kind in enumerate(("hq", "json", "lq")):
        columns[f"{kind}_offset"], columns[f"{kind}_size"] = ends + number, sizes[:, number]
        columns[f"{kind}_crc32"] = rng.integers(0, 1 << 32, PAIRS, np.uint32)
    columns["shard"] = [f"file:///sets/a-long-name/pairs/shards/pairs-{i // EACH:06d}.tar" for i in range(PAIRS)]
    columns["key"] = [key for shard in range(SHARDS) for key in keys(shard)]
    # As the filter says: most images are a group of their own, some are near duplicates, of some it is not known.
    groups = [f"{i // 40:020x}" if i % 40 < 4 else key[:20] for i, key in enumerate(columns["key"])]
    columns["group"] = [group if i % 3 else None for i, group in enumerate(groups)]
    return pa.table({name: columns[name] for name in MEMBERS.names}).cast(MEMBERS)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Callable[[], ShardPairs]:
    monkeypatch.setattr(ShardPairs, "_probe", lambda _: (1024, 1024))  # there are no images
    run: Any = {"config": {"degrade": {"scale": 4}, "hq": "png"}, "sources": []}
    table = pairs_table()
    return lambda: ShardPairs(table, OwnFolder(Folder("/nowhere"), run, "", {}, 0))


def bytes_held(make: Callable[[], Any]) -> float:
    """Of what `make` gives, a pair: in Python's and numpy's memory, and in Arrow's."""
    gc.collect()
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    kept = make()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - arrow
    tracemalloc.stop()
    assert kept is not None
    return held / PAIRS


def write_cache(folder: Path) -> Folder:
    """Indexes of shards that hold all three kinds of each pair; every tenth pair has none."""
    for shard in range(SHARDS):
        rows, at = [], 512
        for number, key in enumerate(keys(shard)):
            for extension, size in zip(EXTENSIONS.values(), (524_416, 2_300_000, 2_400_128), strict=True):
                if number % 10:
                    rows.append((key, f"{key}.{extension}", at, size, (number * 7919 + at) % (1 << 32)))
                at += 512 + size + -size % 512
        arrays = [
            pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), shards.INDEX, strict=True)
        ]
        schema = shards.INDEX.with_metadata({DECODER: "2"})
        data = table_bytes(pa.Table.from_arrays(arrays, schema=schema))
        Folder(folder).publish(f"shards/{shards.index_name(f'pairs-{shard:06d}')}", data)
    return Folder(folder)


def test_sidecars_take_under_60_bytes_a_pair(source: Callable[[], ShardPairs], tmp_path: Path) -> None:
    folder, pairs = write_cache(tmp_path), source()
    held = bytes_held(lambda: Sidecars(folder, pairs, tuple(EXTENSIONS)))
    assert held < 60, f"{held:.1f} bytes a pair, {held * 1.37e6 / 1e6:.0f} MB at 1.37M"
    found = Sidecars(folder, pairs, ("semantic",))
    table = folder.read_table("shards/pairs-000003.index.parquet").to_pylist()
    wanted = {row["key"]: (row["offset"], row["size"], row["crc32"]) for row in table if "semantic" in row["member"]}
    for index in range(3 * EACH, 4 * EACH):
        block, size, crc32 = (int(part[index]) for part in found._places["semantic"])
        assert (block * 512, size, crc32) == wanted.get(pairs.key(index, 0), (0, 0, 0))


def test_pairs_take_under_60_bytes_and_their_order_under_20(source: Callable[[], ShardPairs]) -> None:
    held = bytes_held(source)
    assert held < 60, f"{held:.1f} bytes a pair"
    assert len(pickle.dumps(source())) / PAIRS < 70, "what a reader is sent"
    pairs = source()

    def order() -> Order:
        training, _ = split(pairs.groups, 0.002)
        made = Order(training, pairs.shard_of[training], 0, 4)
        made.epoch(0), made.epoch(1)
        return made

    assert bytes_held(order) < 20


def test_groups_and_keys_are_those_of_the_table(source: Callable[[], ShardPairs]) -> None:
    table, pairs = pairs_table(), source()
    assert pairs._names() == table["key"].to_pylist()
    wanted = zip(table["group"].to_pylist(), table["key"].to_pylist(), strict=True)
    assert pairs.groups == [group or key[:20] for group, key in wanted]
    where, found = pairs.keys_of(7)
    assert (where, found.to_pylist()) == (slice(7 * EACH, 8 * EACH), keys(7))
    for name in ("hq_offset", "lq_size", "lq_crc32"):
        assert pairs._columns[name].tolist() == table[name].to_pylist()


def test_the_order_of_small_integers_is_that_of_large_ones() -> None:
    """The permutations of runs that are under way."""
    shard_of = np.repeat(np.arange(9, dtype=np.int32), 7)
    indices = np.flatnonzero(np.arange(63) % 5)
    for epoch in range(3):
        found = [Order(indices.astype(kind), shard_of[indices], 3, 4).epoch(epoch) for kind in (np.int64, np.uint32)]
        assert np.array_equal(*found)
