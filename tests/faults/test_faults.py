"""Seeded faults at a seeded moment; after each, the job is run again and must give the bytes of a quiet run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from lucidflux_data.errors import Interrupted
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.storage.folder import SETTINGS
from pipelines.demo.data import png_of_zeros
from pipelines.execution.local import LocalExecutor
from pipelines.execution.progress import Progress
from tests.support.paths import ROOT
from tests.support.scenarios import UNITS, WIDE, Fault, check, failing, kill_worker, remote_tree, run_job, tree


def seeds(count: int) -> list[object]:
    """The first in each run of the tests, all of them by `make faults`."""
    return [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count))]


@pytest.mark.parametrize("seed", seeds(6))
def test_worker_killed(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fault = Fault(random.Random(seed).randrange(1, UNITS - 1), lambda: kill_worker(run))
    run_job(f"file://{photos}", str(run), local, fault, config)
    assert fault.struck
    check(run, quiet)


@pytest.mark.parametrize("seed", seeds(4))
def test_driver_interrupted(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(f"file://{photos}", str(run), local, Fault(random.Random(seed).randrange(1, UNITS), interrupt), config)
    local.close()  # as the command does: what is in flight would be made beside the next run
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    check(run, quiet)


DRIVER = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from tests.support.scenarios import WIDE, Fault, run_job
from lucidflux_data.selection.config import make_config
from pipelines.execution.local import LocalExecutor
if __name__ == "__main__":
    fault = Fault({at}, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run_job({source!r}, {run!r}, LocalExecutor(2), fault, make_config("demo", settings=WIDE))
"""


@pytest.mark.parametrize("seed", seeds(2))
def test_driver_killed(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    at = random.Random(100 + seed).randrange(2, UNITS)
    code = DRIVER.format(folder=str(ROOT), at=at, source=f"file://{photos}", run=str(run))
    (tmp_path / "driver.py").write_text(code)
    killed = subprocess.run([sys.executable, str(tmp_path / "driver.py")], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    check(run, quiet)


@pytest.mark.parametrize("seed", seeds(4))
def test_files_lost_between_two_runs(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    """A cleaning script took files, an old writer left some: they are made again, and swept."""
    run, rng = tmp_path / "run", random.Random(seed)
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    files = sorted(
        path for path in run.rglob("*") if path.is_file() and path.name not in ("run.json", "inventory.parquet")
    )
    for path in rng.sample(files, len(files) // 3):
        path.unlink()
    (run / ".tmp").mkdir(exist_ok=True)
    (run / ".tmp" / "0123456789abcdef.part").write_bytes(b"half a file")
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    check(run, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_store_answers_with_errors(
    seed: int, store: Any, bucket: str, local: LocalExecutor, config: FilterConfig, quiet_bucket
) -> None:
    before = store.faults.failures
    with failing(store, 0.03 + 0.05 * seed, seed):
        run_job(bucket, f"s3://faults/errors-{seed}", local, Progress(quiet=True), config)
    assert store.faults.failures > before
    assert remote_tree(store, f"errors-{seed}") == quiet_bucket


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_store_goes_away_and_comes_back(
    seed: int, store: Any, bucket: str, local: LocalExecutor, config: FilterConfig, quiet_bucket, monkeypatch
) -> None:
    """Metric and packing stop in a sentence that says to repeat the command."""
    monkeypatch.setitem(SETTINGS, "attempts", 1)
    monkeypatch.setattr(S3FileSystem, "retries", 1)

    def vanish() -> None:
        store.faults.share = 1.0

    at = (8, 13)[seed]  # in the metric, in packing
    with failing(store, 0.0, seed), pytest.raises(Interrupted, match="repeat the command"):
        run_job(bucket, f"s3://faults/away-{seed}", local, Fault(at, vanish), config)
    run_job(bucket, f"s3://faults/away-{seed}", local, Progress(quiet=True), config)
    assert remote_tree(store, f"away-{seed}") == quiet_bucket


@pytest.mark.parametrize("seed", seeds(2))
def test_disk_full(seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path) -> None:
    """A disk of a size at which scoring (seed 0) or packing (seed 1) finds it full, then a larger one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ("60k", "200k")[seed]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with pytest.raises(Interrupted, match="no space left"):
            run_job(f"file://{photos}", f"{disk}/run", local, Progress(quiet=True), config)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run_job(f"file://{photos}", f"{disk}/run", local, Progress(quiet=True), config)
        check(disk / "run", quiet)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_decoder_hangs_in_one_image_and_a_worker_is_killed_too(
    photos: Path, local: LocalExecutor, tmp_path: Path
) -> None:
    folder, run = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    for path in sorted(photos.iterdir())[:12]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "hang.png").write_bytes(png_of_zeros(13_000, 13_000))
    settings = make_config("demo", settings=[*WIDE, "decode.timeout_s=1.5"])
    run_job(f"file://{folder}", str(run), local, Fault(1, lambda: kill_worker(run)), settings)
    rows = pq.read_table(run / "selected.parquet").to_pylist()
    assert {row["source_key"] for row in rows if row["reason"] == "decode_timeout"} == {"hang.png"}
    again = tmp_path / "again"
    run_job(f"file://{folder}", str(again), local, Progress(quiet=True), settings)
    assert tree(run) == tree(again)
