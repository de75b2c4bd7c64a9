"""The filter job as a user runs it: reasons, counts, readers, determinism, resume, damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lucidflux_data.selection import records

COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))
OPTIONS = ["--preset", "demo", "--set", "rules.min_side=64", "--set", "decode.max_pixels=100000000"]
PLANTED = {
    "too_blurry",
    "too_sharp",
    "too_flat",
    "too_small",
    "truncated",
    "not_an_image",
    "unsupported_mode",
    "too_many_pixels",
    "missing",
    "unreadable",
    "iqa_not_finite",
}


def tree(run: Path) -> dict[str, str]:
    """sha256 of every table, tar, manifest and report."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def filter_into(candidates: Path, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "filter", str(candidates), "--out", str(run), *OPTIONS, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


LOCAL = ["--executor", "local", "--num-cpus", "1"]


@pytest.fixture(scope="module")
def quiet(candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one local process: what every other run must equal."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    done = filter_into(candidates, run, "--executor", "local", "--num-cpus", "1")
    assert done.returncode == 0, done.stderr
    return run


def test_every_planted_reason_appears_and_counts_reconcile(quiet: Path, candidates: Path) -> None:
    ledger = pq.read_table(quiet / "selected.parquet").to_pylist()
    by_name = {row["source_key"]: row for row in ledger}
    for reason in PLANTED:
        (row,) = [row for name, row in by_name.items() if name.startswith(f"planted-{reason}.")]
        assert row["reason"] == reason
    twins = {by_name["planted-duplicate.png"]["reason"], by_name["astronaut.png"]["reason"]}
    assert "duplicate" in twins
    listed = sum(1 for path in candidates.iterdir() if path.suffix != ".txt")
    assert len(ledger) == listed
    kept = [row for row in ledger if row["keep"]]
    assert kept
    assert all((row["reason"] is None) == row["keep"] for row in ledger)
    assert {row["reason"] for row in ledger} <= {None, *records.REASONS}
    scored = [row for row in ledger if row["rank"] is not None]
    assert len(kept) == max(1, len(scored) // 2)
    assert max(row["niqe"] for row in kept) <= min(row["niqe"] for row in scored if not row["keep"])
    run = json.loads((quiet / "run.json").read_text())
    assert run["listed"]["ignored"] == 1


def test_webdataset_reads_the_original_bytes(quiet: Path, candidates: Path) -> None:
    import webdataset

    manifest = json.loads((quiet / "manifest.json").read_text())
    urls = str(quiet / "shards" / manifest["urls"])
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    kept = [row for row in pq.read_table(quiet / "selected.parquet").to_pylist() if row["keep"]]
    assert [sample["__key__"] for sample in samples] == sorted(row["key"] for row in kept)
    names = {row["key"]: row["source_key"] for row in kept}
    for sample in samples:
        (extension,) = [name for name in sample if not name.startswith("__") and name != "json"]
        assert sample[extension] == (candidates / names[sample["__key__"]]).read_bytes()
        assert json.loads(sample["json"])["source_key"] == names[sample["__key__"]]


@pytest.mark.parametrize(
    "options", [("--executor", "local", "--num-cpus", "2"), ("--executor", "ray", "--num-cpus", "2")]
)
def test_the_bytes_do_not_depend_on_how_it_ran(options, quiet: Path, candidates: Path, tmp_path: Path) -> None:
    done = filter_into(candidates, tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "run") == tree(quiet)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_killed_and_resumed_equals_uninterrupted(seed: int, quiet: Path, candidates: Path, tmp_path: Path) -> None:
    """SIGKILL to the driver (even seeds) or to one of its workers (odd seeds) at a random moment."""
    run = tmp_path / "run"
    command = [COMMAND, "filter", str(candidates), "--out", str(run), *OPTIONS]
    command += ["--executor", "local", "--num-cpus", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(random.Random(seed).uniform(1.0, 4.0))
    victims = [process.pid] if seed % 2 == 0 else workers_of(process.pid)
    for victim in victims[:1]:
        os.kill(victim, signal.SIGKILL)
    process.wait(timeout=120)
    again = filter_into(candidates, run, "--executor", "local", "--num-cpus", "2")
    assert again.returncode == 0, again.stderr
    assert tree(run) == tree(quiet)


@pytest.mark.slow
def test_a_ray_worker_killed_at_its_work_changes_nothing(quiet: Path, candidates: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [COMMAND, "filter", str(candidates), "--out", str(run), *OPTIONS, "--executor", "ray", "--num-cpus", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    killed = False
    while process.poll() is None and not killed:
        for victim in busy_ray_workers(process.pid)[:1]:
            os.kill(victim, signal.SIGKILL)
            killed = True
        time.sleep(0.01)
    assert process.wait(timeout=180) == 0
    assert killed
    assert tree(run) == tree(quiet)
    attempts = [json.loads(path.read_text())["attempt"] for path in (run / "events").iterdir()]
    assert max(attempts) > 1, "the unit that lost its worker was tried again"


def busy_ray_workers(driver: int) -> list[int]:
    """Ray processes of this driver's private cluster that are inside a task (their title says so)."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    busy = []
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != driver:
            ancestor = parents[ancestor]
        with contextlib.suppress(OSError):
            if ancestor == driver and Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_enter"):
                busy.append(pid)
    return busy


def workers_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(status[1]) == parent and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_loosened_rules_equal_loose_from_the_start(quiet: Path, candidates: Path, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    strict = filter_into(candidates, run, "--executor", "local", "--set", "rules.min_laplacian_variance=900")
    assert strict.returncode == 0, strict.stderr
    fewer = pq.read_table(run / "selected.parquet")["keep"].to_pylist()
    other = filter_into(candidates, run, "--executor", "local")
    assert other.returncode == 2
    assert "lucidflux-data select" in other.stderr
    loosen = ["--set", "rules.min_laplacian_variance=150", "--executor", "local"]
    assert data_command("select", run, *loosen).returncode == 0
    assert data_command("verify", run).returncode == 6, "shards of the old ledger do not pass for the new one"
    assert data_command("pack", run, "--executor", "local").returncode == 0
    mine, theirs = tree(run), tree(quiet)
    different = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    assert different == set()
    assert sum(fewer) < sum(pq.read_table(run / "selected.parquet")["keep"].to_pylist())


def test_what_if_counts_what_a_run_with_that_rule_keeps(
    quiet: Path, candidates: Path, tmp_path: Path, data_command
) -> None:
    rows = json.loads(data_command("what-if", quiet, "--json").stdout)["rows"]
    (row,) = [row for row in rows if (row["setting"], row["value"]) == ("rules.min_laplacian_variance", "300")]
    done = filter_into(candidates, tmp_path / "run", "--executor", "local", "--set", "rules.min_laplacian_variance=300")
    assert done.returncode == 0, done.stderr
    ledger = pq.read_table(tmp_path / "run" / "selected.parquet").to_pylist()
    after_the_rules = {None, "low_iqa", "iqa_not_finite"}
    assert row["survivors"] == sum(entry["reason"] in after_the_rules for entry in ledger)
    assert row["kept"] == sum(entry["keep"] for entry in ledger)


def test_what_if_tries_several_settings_at_once(quiet: Path, tmp_path: Path, data_command) -> None:
    """What `select --json` counts with them; where they let somebody in without a score, at least so many."""
    for number, settings in enumerate(
        (["--set", "rules.min_laplacian_variance=300", "--top-fraction", "0.35"], ["--min-side", "300", "--top-k", "2"],
         ["--where", "niqe < 4.5", "--set", "rules.max_flat_fraction=0.2"])
    ):  # fmt: skip
        tried = json.loads(data_command("what-if", quiet, *settings, "--json").stdout)
        shutil.copytree(quiet, tmp_path / str(number))
        done = json.loads(data_command("select", tmp_path / str(number), *settings, *LOCAL, "--json").stdout)
        assert tried["then"] == {name: done[name] for name in tried["then"]}
        assert (tried["kept"], tried["scores_to_compute"]) == (done["kept"], 0)
        told = data_command("what-if", quiet, *settings).stdout.splitlines()
        assert told[1].split()[:3] == ["kept", f"{tried['now']['kept']:,}", f"{done['kept']:,}"]
    looser = ["--set", "rules.min_laplacian_variance=0", "--set", "rules.max_flat_fraction=1"]
    tried = json.loads(data_command("what-if", quiet, *looser, "--json").stdout)
    preview = json.loads(data_command("select", quiet, *looser, "--dry-run", "--json").stdout)
    assert tried["scores_to_compute"] == preview["scores_to_compute"] > 0
    assert tried["then"] is None
    assert 0 < tried["kept"] <= preview["kept_by_the_rules"]
    assert f"at least {tried['kept']}" in data_command("what-if", quiet, *looser).stdout
    wrong = data_command("what-if", quiet, "--set", "rules.min_sid=1")
    assert wrong.returncode == 2


def test_verify_finds_and_repairs_damage(quiet: Path, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    shutil.copytree(quiet, run)
    assert data_command("verify", run, "--deep").returncode == 0
    tar = next((run / "shards").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    found = data_command("verify", run)
    assert found.returncode == 6
    assert tar.name in found.stderr
    repaired = data_command("verify", run, "--repair", "--deep")
    assert repaired.returncode == 0, repaired.stderr
    assert tree(run) == tree(quiet)


@pytest.mark.slow
def test_decoy_modules_in_the_working_folder_do_no_harm(candidates: Path, tmp_path: Path, quiet: Path) -> None:
    for name in ("cli.py", "pipelines/__init__.py", "benchmarks/__init__.py", "lucidflux_data/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('the decoy was imported')\n")
    command = [COMMAND, "filter", str(candidates), "--out", "run", *OPTIONS, "--executor", "ray", "--num-cpus", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "run") == tree(quiet)


def test_wrong_calls_are_one_sentence(quiet: Path, tmp_path: Path, candidates: Path, data_command) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("not a run")
    calls = {
        ("filter", str(empty), "--out", str(tmp_path / "r1"), "--iqa", "none"): (3, "holds no images"),
        ("filter", str(tmp_path / "gone"), "--out", str(tmp_path / "r2"), "--iqa", "none"): (3, "is not there"),
        ("filter", str(candidates), "--out", str(full), "--iqa", "none"): (2, "is not a run"),
        ("filter", str(candidates), "--out", str(tmp_path / "r3"), "--iqa", "nique"): (2, "did you mean niqe"),
        ("filter", str(empty), "--out", str(quiet), "--iqa", "none"): (3, "holds no images"),
        ("explain", str(quiet), "nobody.jpg"): (3, "no uri, key or file name"),
        ("verify", str(empty)): (6, "not a run folder"),
    }
    for arguments, (code, words) in calls.items():
        done = data_command(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert "planted" in data_command("explain", quiet, "planted-too_flat.png").stdout
