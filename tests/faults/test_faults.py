"""Seeded faults at a seeded moment; after each, the job is run again and must give the bytes of a quiet run.

A fault strikes when the k-th unit of a run has ended: so that it meets scoring, metric or packing by its seed alone.
Tiny photos, one pool of local processes and one cluster of three nodes serve all scenarios.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from lucidflux_data import ledger
from lucidflux_data.config import FilterConfig, make_config
from lucidflux_data.errors import ConfigError, Interrupted
from lucidflux_data.storage import SETTINGS, Folder, configure
from pipelines import filter as job
from pipelines.demo import png_of_zeros
from pipelines.executor import LocalExecutor, RayExecutor
from pipelines.preflight import preflight
from pipelines.progress import Progress

STEPS = ("score", "select", "pack")
UNITS = 15  # of a quiet run: six each of scoring and metric, three shards
WIDE = ["rules.min_laplacian_variance=1", "rules.max_laplacian_variance=99999", "shards.max_samples=8"]


class Fault(Progress):
    """Calls `strike` once, when `at` units have ended."""

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.at, self.strike, self.ended, self.struck = at, strike, 0, False

    @contextlib.contextmanager
    def phase(self, name: str, total: int, done_before: int) -> Iterator[Callable[[int], None]]:
        def advance(_: int) -> None:
            self.ended += 1
            if self.ended == self.at:
                self.struck = True
                self.strike()

        yield advance


def run_job(source: str, out: str, executor: Any, progress: Progress, config: FilterConfig) -> None:
    folder = Folder(out)
    job.list_into(folder, [source], config, "demo", None, STEPS, progress)
    job.score(folder, config, executor, progress)
    job.select(folder, config, executor, progress)
    job.pack(folder, config, executor, progress)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.startswith("events/")}


def tree(run: Path) -> dict[str, str]:
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return digests(files)


@pytest.fixture(scope="module")
def config() -> FilterConfig:
    return make_config("demo", settings=WIDE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """46 cuts of 200 px out of real photos, and two files that are none."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    images = [
        cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    for number in range(46):
        image = images[number % len(images)]
        top, left = (int(rng.integers(0, side - 200)) for side in image.shape[:2])
        data = cv2.imencode(".jpg", image[top : top + 200, left : left + 200])[1].tobytes()
        (folder / f"{number:02d}.jpg").write_bytes(data)
    (folder / "46.jpg").write_bytes(b"no photo")
    (folder / "47.jpg").write_bytes((folder / "03.jpg").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def local(store: Any) -> Iterator[LocalExecutor]:
    """Spawned after the store is known, so that its processes can speak to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        before = dict(SETTINGS)
        configure({"endpoint_url": store.url})
        executor = LocalExecutor(2)
        yield executor
        executor.close()
        configure(before)


@pytest.fixture(scope="module")
def quiet(
    photos: Path, local: LocalExecutor, config: FilterConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The digests of an undisturbed run on one machine."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    counter = Fault(-1, lambda: None)
    run_job(f"file://{photos}", str(run), local, counter, config)
    assert counter.ended == UNITS
    return tree(run)


def check(run: Path, quiet: dict[str, str]) -> None:
    """Byte-identical, and every candidate accounted for (`counts` asserts the sum)."""
    assert tree(run) == quiet
    counts = ledger.counts(pq.read_table(run / "selected.parquet"))
    assert counts["candidates"] == 48
    assert sum(counts["failed"].values()) == 2


def kill_worker(run: Path) -> None:
    """SIGKILL to the process that ended a unit last: what the kernel does to one that is over its memory."""
    events = sorted((run / "events").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in reversed(events):
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
            return


@pytest.mark.parametrize("seed", range(8))
def test_worker_killed(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fault = Fault(random.Random(seed).randrange(1, UNITS - 1), lambda: kill_worker(run))
    run_job(f"file://{photos}", str(run), local, fault, config)
    assert fault.struck
    check(run, quiet)


@pytest.mark.parametrize("seed", range(4))
def test_driver_interrupted(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_job(f"file://{photos}", str(run), local, Fault(random.Random(seed).randrange(1, UNITS), interrupt), config)
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    check(run, quiet)


DRIVER = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from test_faults import WIDE, Fault, LocalExecutor, make_config, run_job
if __name__ == "__main__":
    fault = Fault({at}, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run_job({source!r}, {run!r}, LocalExecutor(2), fault, make_config("demo", settings=WIDE))
"""


@pytest.mark.parametrize("seed", range(2))
def test_driver_killed(
    seed: int, photos: Path, local: LocalExecutor, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    at = random.Random(100 + seed).randrange(2, UNITS)
    code = DRIVER.format(folder=str(Path(__file__).parent), at=at, source=f"file://{photos}", run=str(run))
    (tmp_path / "driver.py").write_text(code)
    killed = subprocess.run([sys.executable, str(tmp_path / "driver.py")], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_job(f"file://{photos}", str(run), local, Progress(quiet=True), config)
    check(run, quiet)


@pytest.mark.parametrize("seed", range(4))
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


@pytest.fixture(scope="module")
def bucket(store: Any, photos: Path) -> str:
    store.upload("tiny", photos)
    store.client().create_bucket(Bucket="faults")
    return "s3://tiny"


@pytest.fixture(scope="module")
def quiet_bucket(
    bucket: str, local: LocalExecutor, config: FilterConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """An undisturbed single-machine run over the uris of the bucket."""
    run = tmp_path_factory.mktemp("quiet-bucket") / "run"
    run_job(bucket, str(run), local, Progress(quiet=True), config)
    return tree(run)


def remote_tree(store: Any, name: str) -> dict[str, str]:
    return digests({key.removeprefix(f"{name}/"): data for key, data in store.files("faults", f"{name}/").items()})


@contextlib.contextmanager
def failing(store: Any, share: float, seed: int) -> Iterator[None]:
    store.faults.share, store.faults.seed, store.faults.slow_s = share, seed, 0.3
    try:
        yield
    finally:
        store.faults.share = 0.0


@pytest.mark.parametrize("seed", range(5))
def test_store_answers_with_errors(
    seed: int, store: Any, bucket: str, local: LocalExecutor, config: FilterConfig, quiet_bucket
) -> None:
    before = store.faults.failures
    with failing(store, 0.03 + 0.02 * seed, seed):
        run_job(bucket, f"s3://faults/errors-{seed}", local, Progress(quiet=True), config)
    assert store.faults.failures > before
    assert remote_tree(store, f"errors-{seed}") == quiet_bucket


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


@pytest.mark.parametrize("seed", range(2))
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


@pytest.fixture(scope="module")
def cluster(local: LocalExecutor) -> Iterator[Any]:
    """Three nodes of one CPU on this machine."""
    local.close()  # its processes would share the two cores
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
    started.spare = [started.add_node(num_cpus=1, **memory) for _ in range(2)]
    started.memory = memory
    yield started
    started.shutdown()


def lose_node(cluster: Any) -> None:
    cluster.remove_node(cluster.spare.pop(0), allow_graceful=False)


def replace_node(cluster: Any) -> None:
    while len(cluster.spare) < 2:
        cluster.spare.append(cluster.add_node(num_cpus=1, **cluster.memory))
    cluster.wait_for_nodes()
    time.sleep(0.2)


@contextlib.contextmanager
def joined(cluster: Any) -> Iterator[RayExecutor]:
    replace_node(cluster)
    executor = RayExecutor(None, 0, cluster.address)
    try:
        assert executor.description.startswith(f"Ray cluster at {cluster.address}: 3 nodes, 3 CPUs")
        yield executor
    finally:
        executor.close()


def test_preflight_speaks_of_each_node(
    cluster: Any, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with joined(cluster) as executor:
        preflight(executor, [f"file://{photos}"], Folder(str(tmp_path / "run")), "none", Progress())
        assert "preflight: 3 nodes" in capsys.readouterr().err
        with pytest.raises(ConfigError, match=r"node .*: .*nowhere is not there"):
            preflight(executor, ["file:///nowhere"], Folder(str(tmp_path / "run")), "none", Progress())


@pytest.mark.parametrize(("seed", "at"), [(0, 2), (1, 5), (2, 8), (3, 10), (4, 13)])
def test_ray_worker_or_actor_killed(
    seed: int, at: int, photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    """Units 1 to 6 are scored by tasks, 7 to 12 by actors of the metric, 13 to 15 are packed by tasks."""
    run = tmp_path / "run"
    fault = Fault(at, lambda: kill_worker(run))
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, fault, config)
    assert fault.struck
    check(run, quiet)


@pytest.mark.parametrize(("seed", "at"), [(0, 3), (1, 9)])
def test_node_removed(
    seed: int, at: int, photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fault = Fault(at, lambda: lose_node(cluster))
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, fault, config)
    assert fault.struck
    check(run, quiet)


def test_store_with_errors_and_a_lost_node_equal_a_quiet_single_machine(
    store: Any, bucket: str, cluster: Any, config: FilterConfig, quiet_bucket
) -> None:
    """5% of the requests fail, and half-way a third of the cluster is gone."""
    before = store.faults.failures
    with failing(store, 0.05, 77), joined(cluster) as executor:
        fault = Fault(UNITS // 2, lambda: lose_node(cluster))
        run_job(bucket, "s3://faults/lost-node", executor, fault, config)
    assert fault.struck
    assert store.faults.failures > before
    assert remote_tree(store, "lost-node") == quiet_bucket


def test_driver_of_the_cluster_interrupted(
    photos: Path, cluster: Any, config: FilterConfig, quiet, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with joined(cluster) as executor, pytest.raises(KeyboardInterrupt):
        run_job(f"file://{photos}", str(run), executor, Fault(8, interrupt), config)
    with joined(cluster) as executor:
        run_job(f"file://{photos}", str(run), executor, Progress(quiet=True), config)
    check(run, quiet)


def test_the_command_joins_a_cluster_by_its_address(
    photos: Path, cluster: Any, quiet: dict[str, str], tmp_path: Path, data_command: Any
) -> None:
    """As a user calls it; `run.json` and report differ from `quiet` in nothing."""
    replace_node(cluster)
    options = ["--preset", "demo", *(word for setting in WIDE for word in ("--set", setting))]
    done = data_command("filter", photos, "--out", tmp_path / "run", *options, "--address", cluster.address)
    assert done.returncode == 0, done.stderr
    assert f"Ray cluster at {cluster.address}: 3 nodes, 3 CPUs, 0 GPUs" in done.stderr
    assert "preflight: 3 nodes have the same versions" in done.stderr
    check(tmp_path / "run", quiet)
    gone = data_command("filter", photos, "--out", tmp_path / "other", *options, "--address", "127.0.0.1:9")
    assert gone.returncode == 2
    assert "no Ray cluster could be joined at 127.0.0.1:9" in gone.stderr
