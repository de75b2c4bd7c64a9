"""Every case at once: one folder with all of them is filtered to the end, and the sum holds; the 25 images are the
same images from a folder, from an object store and from a tar."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from lucidflux_data.images import decode
from lucidflux_data.sources.reading import read_bytes
from tests.support.case_sources import CANDIDATES, IGNORED, IMAGES, make_case_sources
from tests.support.here import run_filter
from tests.support.odd_sources import tar_bytes, write
from tests.support.paths import DATA

LOOSE = ("rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e9", "rules.max_flat_fraction=1")
WANTED = {
    row[0]: row[1:3] for row in csv.reader((DATA / "cases" / "images.tsv").read_text().splitlines(), delimiter="\t")
}
HISTORY = ("select.near_duplicates=0", "rules.min_fixed_sharpness=0")  # so that the measures of history are taken
WARNED = ["tar_bad_header/s.tar", "apple_double/._0.parquet"]
SAME = ("key", "sha256", "bytes", "format", "width", "height", "mode", "flags", "laplacian_variance", "flat_fraction",
        "jpeg_quality", "blockiness", "spectral_cutoff", "fixed_sharpness", "noise", "phash", "status", "detail",
        "keep", "reason", "group")  # fmt: skip


def rows_of(place: Path) -> list[dict[str, Any]]:
    paths = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def tree(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_all_cases_in_one_folder_end_with_a_sum_that_holds_the_same_through_ray(tmp_path: Path, data_command) -> None:
    make_case_sources(tmp_path / "all")
    settings = [f"--set={setting}" for setting in LOOSE]
    summaries = {}
    for kind in ("local", "ray"):
        where = ["--executor", kind, "--num-cpus", "2", "--iqa", "niqe", "--json"]
        done = data_command("filter", tmp_path / "all", "--out", tmp_path / kind, *settings, *where)
        assert done.returncode == 0, done.stderr
        summaries[kind] = json.loads(done.stdout)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    summary, listed = summaries["local"], json.loads((tmp_path / "local" / "run.json").read_bytes())["listed"]
    ledger = rows_of(tmp_path / "local" / "selected.parquet")
    assert Counter(row["source_key"].split("/")[0] for row in ledger) == CANDIDATES
    gone = sum(summary["rejected"].values()) + sum(summary["failed"].values())
    assert summary["candidates"] == len(ledger) == summary["kept"] + gone == listed["candidates"]
    assert (summary["ignored_by"], listed["ignored_by"]) == (IGNORED, IGNORED)
    assert summary["ignored"] == listed["ignored"] == sum(IGNORED.values())
    assert summary["listed"] == listed["total"] == len(ledger) + sum(IGNORED.values())
    assert [warning.split(" is ")[0].rsplit("/all/")[1] for warning in summary["warnings"]] == WARNED
    assert summaries["ray"]["warnings"] == summary["warnings"] == listed["warnings"]
    report = (tmp_path / "local" / "report.html").read_text()
    assert f"{summary['listed']} listed = {len(ledger)} candidates + {sum(IGNORED.values())} ignored" in report
    failed = {row["source_key"]: row["reason"] for row in ledger if row["reason"] in summary["failed"]}
    asked = {f"images/{name}": want[5:] for name, (want, _) in WANTED.items() if want.startswith("fail:")}
    small = {name: reason for name, reason in failed.items() if reason == "iqa_not_finite"}
    assert {name: reason for name, reason in failed.items() if name not in small} == asked
    assert all(name.startswith("images/") for name in small), "only those are smaller than NIQE's patches"


def test_the_images_are_the_same_from_a_folder_a_store_and_a_tar(store, tmp_path: Path, monkeypatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    store.upload("cases", IMAGES)
    paths = sorted(IMAGES.iterdir())
    write(tmp_path / "cases.tar", tar_bytes([(path.name, path.read_bytes()) for path in paths]))
    seen, shards = [], []
    for number, source in enumerate((IMAGES, "s3://cases", tmp_path / "cases.tar")):
        run = tmp_path / str(number)
        run_filter(source, run, f"storage.endpoint_url={store.url}", "iqa.metric=none", *LOOSE, *HISTORY)
        found = {row["uri"]: row for row in rows_of(run / "scores" / "basic")}
        for place in (run / "scores" / "history", run / "selected.parquet"):
            for row in rows_of(place):
                found[row["uri"]] |= row  # of the ledger comes the last reason
        seen.append({row["source_key"]: [row.get(column) for column in SAME] for row in found.values()})
        shards.append((run / "shards" / "hq-000000.tar").read_bytes())
        for row in found.values():
            check_pixels(row)
    assert sorted(seen[0]) == [path.name for path in paths]
    assert len(paths) == 25
    assert seen[0] == seen[1] == seen[2]
    assert shards[0] == shards[1] == shards[2]


def check_pixels(row: dict[str, Any]) -> None:
    name = row["source_key"]
    want, tolerance = WANTED[name]
    if want.startswith("fail:"):
        assert row["reason"] == want.removeprefix("fail:"), name
        return
    pixels = decode(read_bytes(row["uri"], row["offset"], row["bytes"]))
    expected = cv2.imread(str(DATA / "cases" / "expected" / f"{name}.png"))[..., ::-1].astype(int)
    off = np.abs(pixels - expected).max(axis=2) > int(tolerance)
    assert np.mean(off) <= (0.02 if "lab" in name else 0), name
