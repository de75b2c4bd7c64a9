"""Every input is a candidate or is ignored by a kind that run.json and the summary name."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.odd_sources import header_offset, jpeg, tar_bytes, write

LOCAL = ["--executor", "local", "--num-cpus", "2", "--iqa", "none"]
LOOSE = [f"--set=rules.{rule}" for rule in ("min_laplacian_variance=0", "max_flat_fraction=1", "min_side=0")]


def test_listed_is_candidates_and_ignored_by_kind(tmp_path: Path, data_command) -> None:
    photos = tmp_path / "photos"
    write(photos / "a.jpg", jpeg(1))
    write(photos / "notes.txt", b"text")
    members = tar_bytes([("x.jpg", jpeg(2)), ("x.jpg", jpeg(3)), ("y.jpg", jpeg(4))])
    write(photos / "s.tar", members[: header_offset(members, 3)])  # without its end
    write(photos / "t.tgz", gzip.compress(tar_bytes([("z.jpg", jpeg(5))])))
    write(photos / "bad.parquet", b"")
    os.mkfifo(photos / "p.jpg")
    uris = [None, f"{photos}/a.jpg", "nosuch://x/y.jpg", "u.parquet#abc"]
    pq.write_table(pa.table({"url": uris}), photos / "u.parquet")
    run = tmp_path / "run"
    told = data_command("filter", photos, "--out", run, *LOCAL, *LOOSE, "--max-failed", "1")
    assert told.returncode == 0, told.stderr
    done = data_command("filter", photos, "--out", run, *LOCAL, *LOOSE, "--max-failed", "1", "--json")
    kinds = {
        "other_files": 1,
        "not_regular": 1,
        "duplicate_members": 1,
        "duplicate_rows": 1,
        "null_rows": 1,
        "damaged_tails": 1,
        "damaged_files": 1,
        "packed_tars": 1,
    }
    listed = json.loads((run / "run.json").read_bytes())["listed"]
    assert (listed["candidates"], listed["ignored"], listed["ignored_by"]) == (5, 8, kinds)
    summary = json.loads(done.stdout)
    assert (summary["candidates"], summary["ignored"], summary["ignored_by"]) == (5, 8, kinds)
    for words in (
        "8 ignored (1 other files, ",
        "s.tar is damaged or breaks off",
        "t.tgz is a packed tar",
        "bad.parquet is",
    ):
        assert words in told.stderr, words
    assert "ignored_by: " in told.stdout
    rows = {row["uri"]: row for row in pq.read_table(run / "selected.parquet").to_pylist()}
    failed = [uri for uri, row in rows.items() if row["reason"] == "unreadable"]
    assert failed == ["file://" + f"{photos}/u.parquet#abc", "nosuch://x/y.jpg"]
    assert sum(row["keep"] for row in rows.values()) == 3


def test_only_packed_tars_are_one_sentence(tmp_path: Path, data_command) -> None:
    path = write(tmp_path / "t.tar.gz", gzip.compress(tar_bytes([("z.jpg", jpeg(5))])))
    done = data_command("filter", path, "--out", tmp_path / "run", *LOCAL)
    assert done.returncode == 3
    assert "t.tar.gz is a packed tar and is not read: unpack it to a .tar" in done.stderr
    assert "Traceback" not in done.stderr
