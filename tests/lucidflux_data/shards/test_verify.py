"""A shard is checked in one pass, as a whole or in parts, and says what a plain reading of the tar says."""

from __future__ import annotations

import hashlib
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lucidflux_data.shards import verify
from lucidflux_data.shards.shard import INDEX, ShardEntry, TarWriter, index_name
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_table, table_bytes

SAMPLES = 23
TAR = "shards/hq-000000.tar"
INDEX_FILE = f"shards/{index_name('hq-000000')}"


def write_shard(folder: Folder, size: int = 3000) -> tuple[bytes, pa.Table]:
    """A shard of SAMPLES samples of about `size` random bytes each."""
    rng, writer = np.random.default_rng(7), TarWriter()
    images = sorted((hashlib.sha256(data).hexdigest(), data) for data in (rng.bytes(size + i) for i in range(SAMPLES)))
    writer.sha256s = [sha256 for sha256, _ in images]
    samples = [(sha[:20], {"jpg": data, "json": f'{{"key": "{sha[:20]}"}}\n'.encode()}) for sha, data in images]
    tar = b"".join(writer.chunks(samples))
    index = writer.index_bytes("plan")
    folder.publish(TAR, tar)
    folder.publish(INDEX_FILE, index)
    return tar, parse_table(index, INDEX_FILE)


def entry_of(folder: Folder) -> ShardEntry:
    """A line of a manifest that fits whatever lies there now."""
    tar, index = folder.read(TAR), folder.read(INDEX_FILE)
    sums = [hashlib.sha256(data).hexdigest() for data in (tar, index)]
    return {"name": "hq-000000.tar", "samples": SAMPLES, "bytes": len(tar), "sha256": sums[0], "index_sha256": sums[1]}


def problems_of(folder: Folder, entry: ShardEntry, size: int) -> list[str]:
    """Of `verify`, in parts of `size` samples, the last one first."""
    parts = verify.split_shards([entry], size)
    found = [(part, verify.check_part(folder, part, True, read_json)) for part in reversed(parts)]
    return sorted(verify.gather_checked(found)[0])


def read_json(key: str, members: dict[str, bytes]) -> list[str]:
    record = verify.read_record(members["json"])
    return [] if record == {"key": key} else [f"{key}.json is of another image"]


def expected(folder: Folder, noted: list[str]) -> list[str]:
    """The same by tarfile, zlib and hashlib."""
    found: list[str] = []
    rows = parse_table(folder.read(INDEX_FILE), INDEX_FILE).to_pylist()
    with tarfile.open(folder.path(TAR)) as file:
        members = {member.name: (member.offset_data, file.extractfile(member).read()) for member in file}  # type: ignore[union-attr]
    by_key: dict[str, list[str]] = {}
    for row in rows:
        offset, data = members.get(row["member"], (-1, b""))
        if (offset, len(data), zlib.crc32(data)) != (row["offset"], row["size"], row["crc32"]):
            by_key.setdefault(row["key"], []).append(f"the index does not point at {row['member']}")
    for key, sha256 in zip(sorted({row["key"] for row in rows}), noted, strict=True):
        if key in by_key:
            found += by_key[key]
            continue
        if hashlib.sha256(members[f"{key}.jpg"][1]).hexdigest() != sha256:
            found.append(f"{key} has other bytes than its sha256 in the index says")
        if members[f"{key}.json"][1] != f'{{"key": "{key}"}}\n'.encode():
            found.append(f"{key}.json is of another image")
    return sorted(f"{TAR}: {problem}" for problem in found)


@pytest.mark.parametrize("seed", range(4))
def test_every_damage_is_found_whatever_the_parts(seed: int, tmp_path: Path) -> None:
    """Damage that tar, index and manifest agree about, as what rewrites a folder might leave."""
    folder, rng = Folder(tmp_path), np.random.default_rng(seed)
    tar, table = write_shard(folder)
    metadata = table.schema.metadata
    noted = metadata[b"sha256s"].decode().split()
    data, rows = bytearray(tar), table.to_pylist()
    for row in rng.choice(len(rows), 4, replace=False):  # other bytes, of which the index may know
        place = rows[row]["offset"] + int(rng.integers(rows[row]["size"]))
        data[place] ^= 1
        if rng.random() < 0.6:
            rows[row]["crc32"] = zlib.crc32(data[rows[row]["offset"] : rows[row]["offset"] + rows[row]["size"]])
    moved = int(rng.integers(len(rows)))
    rows[moved]["offset"] = int(rng.integers(-600, len(tar) + 600))  # anywhere, before what was read, too
    folder.publish(TAR, bytes(data))
    folder.publish(INDEX_FILE, table_bytes(pa.Table.from_pylist(rows, INDEX.with_metadata(metadata))))
    wanted = expected(folder, noted)
    assert len(wanted) >= 2
    for size in (1, 5, SAMPLES):
        assert problems_of(folder, entry_of(folder), size) == wanted


def test_a_shard_that_is_another_says_that_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    tar, _ = write_shard(folder)
    entry = entry_of(folder)
    folder.publish(TAR, tar[:-1] + b"\1")
    for size in (4, SAMPLES):
        assert problems_of(folder, entry, size) == [f"{TAR} does not have the sha256 of the manifest"]
    folder.publish(TAR, tar)
    folder.publish(INDEX_FILE, folder.read(INDEX_FILE)[:-1] + b"\1")
    for size in (4, SAMPLES):
        assert problems_of(folder, entry, size) == [f"{INDEX_FILE} does not have the sha256 of the manifest"]
    folder.remove(INDEX_FILE)
    for size in (4, SAMPLES):
        assert problems_of(folder, entry, size) == [f"{folder.path(INDEX_FILE)} is missing"]


def test_samples_that_the_index_has_and_the_manifest_does_not_count(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write_shard(folder)
    for wrong in (SAMPLES - 1, SAMPLES + 2, 0, 10**12):
        entry = entry_of(folder) | {"samples": wrong}
        for size in (4, 10**12):
            assert problems_of(folder, entry, size) == [f"{TAR}: has not {wrong} samples"]


def test_a_shard_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """A header that is taken out of all that follows it copies the tar once a member: 99 s for 800 samples."""
    folder = Folder(tmp_path)
    tar, _ = write_shard(folder, 300_000)
    entry = entry_of(folder)
    tracemalloc.start()
    try:
        assert problems_of(folder, entry, SAMPLES) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(tar) / 3
