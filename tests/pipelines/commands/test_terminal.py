"""Ctrl-C once and twice, closed and full streams: an answer within a second, no traceback, no internal error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.paths import LUCIDFLUX, LUCIDFLUX_DATA, ROOT

LOCAL = ["--executor", "local", "--num-cpus", "1", "--iqa", "none"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to be in the middle of for some seconds."""
    place = tmp_path_factory.mktemp("terminal") / "photos"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        image = cv2.resize(
            rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), (3200, 2400), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(str(place / f"{number:03d}.png"), image)
    return place


def start(photos: Path, run: Path) -> subprocess.Popen[str]:
    command = [LUCIDFLUX_DATA, "filter", str(photos), "--out", str(run), *LOCAL]
    # A shell's background job is deaf to Ctrl-C, and so would be what it starts.
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_run(run: Path, process: subprocess.Popen[str]) -> None:
    end = time.time() + 120
    while not (run / "inventory.parquet").exists() and process.poll() is None and time.time() < end:
        time.sleep(0.02)


@pytest.mark.parametrize("gap", [None, 0.15, *(pytest.param(gap, marks=pytest.mark.slow) for gap in (0.05, 0.1, 0.3))])
def test_ctrl_c_once_or_twice_is_one_sentence(photos: Path, tmp_path: Path, gap: float | None) -> None:
    process = start(photos, tmp_path / "run")
    wait_for_run(tmp_path / "run", process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    if gap is not None:
        time.sleep(gap)
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 5, said
    assert said.count("interrupted: repeat the command to resume") == 1
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "error" not in said.lower()
    again = subprocess.run(
        [LUCIDFLUX_DATA, "filter", str(photos), "--out", str(tmp_path / "run"), *LOCAL],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert again.returncode == 0, again.stderr


DEAF = """
import ctypes, sys
from pipelines.commands.terminal import run_guarded

def command():
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    libc.pthread_mutex_lock(mutex)
    print("stuck", flush=True)
    libc.pthread_mutex_lock(mutex)  # never taken, and no signal ends the wait

run_guarded(command)
"""


def test_ctrl_c_is_answered_while_a_library_lets_no_python_run() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "stuck\n"
    time.sleep(2)  # until it is in there
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "interrupted: repeat the command to resume\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 5
    assert process.stderr.read() == ""


@pytest.mark.parametrize("place", ["import typer", "from pipelines.commands.weights import app as weights_app"])
def test_ctrl_c_while_a_command_starts_is_one_sentence(place: str, tmp_path: Path) -> None:
    """The signal comes at a line of the entry point, before which nothing of ours can answer for it."""
    source = (ROOT / "cli.py").read_text()
    assert source.count(f"{place}\n") == 1
    struck = "import signal; signal.raise_signal(signal.SIGINT)\n"
    (tmp_path / "cli.py").write_text(source.replace(f"{place}\n", struck))
    result = subprocess.run(
        [sys.executable, str(tmp_path / "cli.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (result.returncode, result.stderr) == (5, "interrupted: repeat the command to resume\n")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize("redirect", ["<&- 2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_ends_no_job(photos: Path, tmp_path: Path, redirect: str) -> None:
    """The first two photos alone: what is said, progress and warnings, goes nowhere."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.iterdir())[:2]:
        (few / path.name).symlink_to(path)
    done = shell(f"{LUCIDFLUX_DATA} filter {few} --out {tmp_path}/run {' '.join(LOCAL)} --json {redirect}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("{"), "what belongs to stderr does not go to stdout"
    assert (tmp_path / "run" / "manifest.json").exists()
    wrong = shell(f"{LUCIDFLUX_DATA} report {tmp_path}/nothing {redirect}")
    assert wrong.returncode in (2, 3)
    assert wrong.stdout == ""


@pytest.mark.parametrize("command", [f"{LUCIDFLUX} --version", f"{LUCIDFLUX_DATA} --help"])
def test_a_stdout_that_takes_nothing_is_said(command: str) -> None:
    done = shell(f"{command} >/dev/full")
    assert done.returncode == 5, done.stderr
    assert "standard output cannot be written to: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    closed = shell(f"{command} >&-")
    assert closed.returncode == 0, closed.stderr
    assert "Traceback" not in closed.stderr


def test_a_reader_that_leaves_is_no_internal_error() -> None:
    done = shell(f"{LUCIDFLUX_DATA} --help | head -n 1 >/dev/null; exit ${{PIPESTATUS[0]}}")
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_that_are_lost_after_the_last_unit_leave_no_noise(tmp_path: Path) -> None:
    """A pool whose worker died must not complain as the interpreter ends."""
    code = """
import os, signal, time
from pipelines.execution.local import LocalExecutor
from pipelines.execution.worker import Unit
class Job:
    def __call__(self, unit):
        return os.getpid()
if __name__ == "__main__":
    executor = LocalExecutor(2)
    pids = {pid for _, pid in executor.map([Unit(str(n), 1, None) for n in range(4)], Job())}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    executor.close()
    print("done")
"""
    (tmp_path / "lost.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "lost.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
