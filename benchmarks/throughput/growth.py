"""How the cost of a candidate grows: a real run at several sizes, phase by phase, beside a bare loop.

    python -m benchmarks.throughput.main growth --images PHOTOS --candidates 3000 --candidates 30000 --kills 2

Each phase is a command of its own, as a user types it. Processor time is the whole machine's, so nothing else may run.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import psutil
import typer

from benchmarks.throughput.candidates import write_tars, write_tree
from benchmarks.throughput.equal_bytes import compare_folders
from benchmarks.throughput.timing import Facts, Images, OutFile, print_json, real_photos
from lucidflux_data.images import ImageError
from lucidflux_data.measures.blur_and_flat import measure_bytes, measure_luma
from lucidflux_data.storage.folder import Folder
from pipelines.execution.executor import available_cpus
from pipelines.execution.worker import prepare_process, silence_native_stderr
from pipelines.filter.estimate import compare_with_run

app = typer.Typer()
RULES = ("--iqa", "none")
SAMPLES = 20  # of memory over time, in the JSON
Executor = Literal["ray", "local"]
Source = Literal["tree", "tars", "s3"]


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds of wall time and of all processors, the largest resident memory of the driver and of any
    other process of its tree, and that of the driver over time, in MB."""

    seconds: float
    core_seconds: float
    driver_mb: int
    worker_mb: int
    driver_mb_over_time: list[int]


class Watch:
    """Looks at a process and all that it started, or that Ray started for it, twice a second."""

    def __init__(self, pid: int) -> None:
        self.driver: list[int] = []
        self.worker = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(psutil.Error):
                self.driver.append(_resident(self._process))
                self.worker = max([self.worker, *map(_resident, self._process.children(recursive=True))])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss) // 2**20
    except psutil.Error:
        return 0


def _busy() -> float:
    """Seconds that all processors of this machine have worked since it started."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.system + getattr(spent, "nice", 0.0) + getattr(spent, "softirq", 0.0))


def run_command(words: list[str], environment: dict[str, str], kill_after: float | None = None) -> Cost:
    """Runs `lucidflux-data` with these words. `kill_after` seconds its whole process group is killed."""
    code = "import sys; sys.argv[0] = 'lucidflux-data'; import cli; cli.data_main()"
    busy, start = _busy(), time.perf_counter()
    command = [sys.executable, "-c", code, *words]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        watch = Watch(process.pid)
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        watch.close()
        if process.returncode != 0 and kill_after is None:
            said.seek(0)
            raise typer.BadParameter(f"{' '.join(words)} ended with {process.returncode}: {said.read()[-2000:]!r}")
    seconds, cores = time.perf_counter() - start, _busy() - busy
    over_time = watch.driver[:: max(1, len(watch.driver) // SAMPLES)]
    return Cost(round(seconds, 2), round(cores, 2), max(watch.driver, default=0), watch.worker, over_time)


def _measure(path: str) -> object:
    try:
        with open(path, "rb") as file:
            data = file.read()
        return hashlib.sha256(data).hexdigest(), measure_bytes(data)
    except ImageError as error:
        return error.reason


def _start() -> None:
    silence_native_stderr()
    prepare_process()
    measure_luma(np.zeros((480, 480), np.uint8))


def run_bare_loop(folder: Path, cpus: int) -> Cost:
    """Reads, hashes and measures every file below `folder` in a pool, chunks of 8; its start counts."""
    files = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    busy, start = _busy(), time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(cpus, _start) as pool:
        for _ in pool.imap_unordered(_measure, files, chunksize=8):
            pass
    return Cost(round(time.perf_counter() - start, 2), round(_busy() - busy, 2), 0, 0, [])


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """The files of `folder` in the bucket `candidates` of an S3 endpoint on loopback; gives what reaches it."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "measuring",
        "AWS_SECRET_ACCESS_KEY": "measuring",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        store = fsspec.filesystem("s3", endpoint_url=access["AWS_ENDPOINT_URL"], key="measuring", secret="measuring")
        store.mkdir("candidates")
        store.put(f"{folder}/", "candidates/", recursive=True)
        yield access
    finally:
        server.stop()


def measure_phases(
    source: str, run: Path, executor: Executor, pairs: int, environment: dict[str, str]
) -> dict[str, Cost]:
    """Every phase of a filter over `source`, as commands, in order; then pairs of so many of the kept images."""
    local = ["--executor", executor]
    phases = {
        "plan": ["plan", source, "--out", str(run), *RULES, "--num-cpus", str(available_cpus())],
        "score": ["score", source, "--out", str(run), *RULES, *local],
        "select": ["select", str(run), *RULES, *local],
        "pack": ["pack", str(run), *local],
        "verify": ["verify", str(run)],
        "report": ["report", str(run)],
        "select again": ["select", str(run), *RULES, "--min-side", "320", "--out", f"{run}-other", *local],
        "diff": ["diff", str(run), f"{run}-other"],
    }
    if pairs:
        phases["synthesize"] = ["synthesize", str(run), "--out", f"{run}-pairs", "--size", "256", *local]
        phases["synthesize"] += ["--limit", str(pairs)]
    return {name: run_command(words, environment) for name, words in phases.items()}


def kill_and_repeat(
    source: str, run: Path, quiet: Cost, kills: int, executor: Executor, environment: dict[str, str]
) -> None:
    """The same score, select and pack in another folder, whose first command is killed `kills` times on its way."""
    score = ["score", source, "--out", str(run), *RULES, "--executor", executor]
    for _ in range(kills):
        run_command(score, environment, kill_after=quiet.seconds / (kills + 1))
    for words in (
        score,
        ["select", str(run), *RULES, "--executor", executor],
        ["pack", str(run), "--executor", executor],
    ):
        run_command(words, environment)


def measure_size(
    photos: list[Path], count: int, place: Path, source: Source, executor: Executor, kills: int, pairs: int
) -> tuple[Facts, dict[str, Cost]]:
    """One size: its inputs are made, measured and removed."""
    cpus, inputs, run = available_cpus(), place / "candidates", place / "run"
    made = (write_tars if source == "tars" else write_tree)(photos, count, inputs, cpus)
    with contextlib.ExitStack() as stack:
        environment = dict(os.environ)
        address = str(inputs)
        if source == "s3":
            environment |= stack.enter_context(served(inputs))
            address = "s3://candidates"
        bare = run_bare_loop(inputs, cpus) if source != "tars" else None
        phases = measure_phases(address, run, executor, pairs, environment)
        facts: Facts = {
            "candidates": count,
            "bytes": made,
            "phases": {name: asdict(cost) for name, cost in phases.items()},
        }
        facts["files"] = sum(path.is_file() for path in run.rglob("*"))
        whole = sum(phases[name].seconds for name in ("score", "select", "pack"))
        if bare is not None:
            facts["bare_loop"] = {"seconds": bare.seconds, "core_seconds": bare.core_seconds}
            facts["bare_loop / score"] = round(bare.seconds / phases["score"].seconds, 3)
            facts["bare_loop / (score + select + pack)"] = round(bare.seconds / whole, 3)
        facts["plan"] = compare_with_run(Folder(str(run)))
        if kills:
            killed = place / "killed" / "run"
            kill_and_repeat(address, killed, phases["score"], kills, executor, environment)
            equal, same, different, _ = compare_folders(run, killed)
            facts["after_kills"] = {"kills": kills, "equal_files": equal, "equal_rows": same, "different": different}
    for folder in (inputs, run, place / "run-other", place / "run-pairs", place / "killed"):
        shutil.rmtree(folder, ignore_errors=True)
    return facts, phases


def fit(counts: list[int], phases: list[dict[str, Cost]]) -> Facts:
    """Seconds of each phase as a fixed part and milliseconds a candidate: the line through all sizes."""
    lines: Facts = {}
    for name in phases[0]:
        slope, fixed = np.polyfit(counts, [costs[name].seconds for costs in phases], 1)
        lines[name] = {"fixed_s": round(float(fixed), 2), "ms_a_candidate": round(1000 * float(slope), 3)}
    return lines


@app.command("growth")
def growth_command(
    images: Images,
    candidates: Annotated[list[int], typer.Option(help="How many; may be repeated.")],
    source: Source = "tree",
    executor: Executor = "ray",
    kills: Annotated[int, typer.Option(help="Times the score of a second run is killed on its way.")] = 0,
    pairs: Annotated[int, typer.Option(help="Pairs made of the kept images.")] = 0,
    place: Annotated[Path | None, typer.Option(help="A folder with room for the inputs.")] = None,
    out: OutFile = None,
) -> None:
    """A real run over generated candidates at several sizes: cost of each phase, and of a bare loop."""
    photos = real_photos(images)
    with tempfile.TemporaryDirectory(dir=place) as made:
        measured = [measure_size(photos, count, Path(made), source, executor, kills, pairs) for count in candidates]
    result: Facts = {"cpus": available_cpus(), "source": source, "executor": executor}
    result["sizes"] = [facts for facts, _ in measured]
    if len(measured) > 1:
        result["line"] = fit(candidates, [costs for _, costs in measured])
    print_json(result, out)
