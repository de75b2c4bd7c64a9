"""Commands that write into one folder at once: one writes, the others wait or say who does."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lucidflux_data.storage.lease import NAME
from tests.support.here import run_filter, verified
from tests.support.paths import ROOT
from tests.support.photos import write_crops
from tests.support.scenarios import tree

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=4"]

# A command that stops, so that others meet it, in the publish of its `at`-th file; "go" on standard input lets it on.
SLOW = """
import sys
sys.path.insert(0, {root!r})
from lucidflux_data.storage.folder import Folder
publish, count = Folder.publish, 0
def slowly(self, name, content):
    global count
    count += 1
    if count == {at}:
        print("stopped", flush=True)
        sys.stdin.readline()
    publish(self, name, content)
Folder.publish = slowly
import cli
sys.argv[0] = "lucidflux-data"
cli.data_main()
"""


@contextlib.contextmanager
def stopped(at: int, *arguments: object) -> Iterator[subprocess.Popen]:
    code = SLOW.format(root=str(ROOT), at=at)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **pipes)
    try:
        assert process.stdout.readline() == "stopped\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    return write_crops(tmp_path_factory.mktemp("photos"), photo_paths)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "run"
    run_filter(photos, place, *ALL)
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def kept(run: Path) -> list[str]:
    table = pq.read_table(run / "selected.parquet").to_pylist()
    return sorted(row["key"] for row in table if row["keep"])


def test_of_two_forgets_the_second_says_who_is_at_work_or_waits(run: Path, data_command) -> None:
    first, second = kept(run)[:2]
    with stopped(4, "forget", run, first) as other:
        before = tree(run)
        busy = data_command("forget", run, second)
        assert busy.returncode == 5
        assert re.fullmatch(
            rf"error: {run} is being written by `lucidflux-data forget` \(process {other.pid} on \S+, which began "
            r"\d+ s ago; last heartbeat \d+ s ago\): repeat this later, or give --wait SECONDS\n",
            busy.stderr,
        )
        assert tree(run) == before
        waiting = subprocess.Popen(
            [sys.executable, "-P", "-c", "import cli; cli.data_main()", "forget", run, second, "--wait", "120"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert "waiting for `lucidflux-data forget`" in waiting.stderr.readline()
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.wait(120) == 0
        assert waiting.wait(120) == 0
        waiting.stderr.close()
    assert len(kept(run)) == 4
    assert not {first, second} & set(kept(run))
    assert verified(run) == 4
    assert not (run / NAME).exists()


def test_a_killed_command_holds_nothing(run: Path, data_command) -> None:
    """And its repeat ends in the bytes of a quiet one."""
    victim = kept(run)[0]
    with stopped(4, "forget", run, victim) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert (run / NAME).exists()
        done = data_command("forget", run, victim)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (run / NAME).exists()
    assert not (run / ".tmp").exists()
    assert verified(run) == 5


def test_who_waits_too_short_ends_when_the_time_is_over(run: Path, data_command) -> None:
    with stopped(1, "report", run):
        start = time.monotonic()
        done = data_command("pack", run, "--wait", "1")
        assert done.returncode == 5
        assert time.monotonic() - start >= 1
