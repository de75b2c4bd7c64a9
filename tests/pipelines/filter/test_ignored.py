"""Every input is a candidate or is ignored by a kind that run.json and the summary name."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.odd_sources import header_offset, jpeg, tar_bytes, write
from tests.support.paths import ROOT

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
    assert listed["total"] == 13
    summary = json.loads(done.stdout)
    assert (summary["candidates"], summary["ignored"], summary["ignored_by"]) == (5, 8, kinds)
    assert summary["listed"] == 13
    words = [line.removeprefix("warning: ") for line in told.stderr.splitlines() if line.startswith("warning: ")]
    assert len(words) == 3, "of the cut tar, the packed tar and the damaged table"
    assert summary["warnings"] == listed["warnings"] == words, "on resuming, too"
    assert done.stderr.splitlines() == [f"warning: {warning}" for warning in words], "--json says them, and no more"
    report = (run / "report.html").read_text()
    assert "13 listed = 5 candidates + 8 ignored (1 other files, 1 pipes" in report
    assert "5 candidates = 3 kept + 0 rejected + 2 failed" in report
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
    assert failed == ["file://" + f"{photos}/u.parquet#abc"]
    assert [uri for uri, row in rows.items() if row["reason"] == "not_allowed"] == ["nosuch://x/y.jpg"]
    assert sum(row["keep"] for row in rows.values()) == 3


def test_only_packed_tars_are_one_sentence(tmp_path: Path, data_command) -> None:
    path = write(tmp_path / "t.tar.gz", gzip.compress(tar_bytes([("z.jpg", jpeg(5))])))
    done = data_command("filter", path, "--out", tmp_path / "run", *LOCAL)
    assert done.returncode == 3
    assert "t.tar.gz is a packed tar and is not read: unpack it to a .tar" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sum_holds_of_samples_and_of_runs_together(tmp_path: Path, data_command) -> None:
    for name, numbers in (("a", (1, 2, 3)), ("b", (4,))):
        for number in numbers:
            write(tmp_path / name / f"{number}.jpg", jpeg(number))
    write(tmp_path / "a" / "notes.txt", b"text")
    paths = [str(tmp_path / "a" / "3.jpg"), str(tmp_path / "b" / "4.jpg")]
    pq.write_table(pa.table({"path": paths}), tmp_path / "c.parquet")

    def run(*arguments: object) -> dict[str, Any]:
        done = data_command(*arguments, *LOCAL[:4], "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    sampled = run("filter", tmp_path / "a", "--out", tmp_path / "sampled", "--iqa", "none", *LOOSE, "--limit", 2)
    assert (sampled["listed"], sampled["candidates"]) == (4, 2)
    assert sampled["ignored_by"] == {"other_files": 1, "not_drawn": 1}
    for name in ("a", "c.parquet"):
        run("filter", tmp_path / name, "--out", tmp_path / f"run-{name}", "--iqa", "none", *LOOSE)
    run("select", tmp_path / "run-a", tmp_path / "run-c.parquet", "--out", tmp_path / "both")
    run("select", tmp_path / "run-a", "--include", tmp_path / "run-c.parquet")
    for place in ("both", "run-a"):
        told = run("pack", tmp_path / place)
        assert (told["listed"], told["candidates"]) == (6, 4)
        assert told["ignored_by"] == {"other_files": 1, "of_other_runs": 1}
        assert "6 listed = 4 candidates + 2 ignored" in (tmp_path / place / "report.html").read_text()


def test_every_object_of_a_command_has_its_warnings() -> None:
    """One mechanism: no command prints an object past `tell` and `tell_json`."""
    found = []
    for path in [*(ROOT / "pipelines" / "commands").glob("*.py"), ROOT / "cli.py"]:
        if path.name != "telling.py":
            found += re.findall(r"echo\(json\.dumps\((.*?)\)\)", path.read_text())
    assert found == []


def test_a_damaged_table_in_a_suite_is_not_checked_as_a_whole(tmp_path: Path, data_command) -> None:
    write(tmp_path / "suite" / "a.jpg", jpeg(1, 300, 300))
    write(tmp_path / "suite" / "b.parquet", b"PAR1")
    write(tmp_path / "suite" / "c.tar.gz", b"\x1f\x8b")
    done = data_command("fingerprint", tmp_path / "suite", "--name", "s", "--out", tmp_path / "s.parquet", "--json")
    told = json.loads(done.stdout)
    assert (told["images"], told["of"]) == (1, 3)
    assert len(told["warnings"]) == 3
    assert "3 images, 1 of them can be read: no whole suite" in told["warnings"][-1]
