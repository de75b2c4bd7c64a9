"""How a job is spread: shares of GPUs, threads that decode ahead, what is noted of attempts and stragglers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import cv2
import pytest

from lucidflux_data.errors import ConfigError
from lucidflux_data.selection.config import label, make_config
from lucidflux_data.selection.run import make_run
from lucidflux_data.storage.folder import Folder
from pipelines.execution.counting import count_done
from pipelines.execution.executor import number_of_actors
from pipelines.execution.in_flight import Flights
from pipelines.execution.local import LocalExecutor, share_devices
from pipelines.execution.on_ray import RayExecutor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Events, Unit
from pipelines.filter.score import MetricUnit, count_decode_threads
from tests.support.paths import ROOT


def where_am_i(unit: Unit) -> tuple[int, str]:
    time.sleep(0.3)  # so that every actor gets its part
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    ("each", "actors"), [(0.5, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1.0, 2), (2.0, 1)))]
)
def test_an_actor_has_the_share_of_a_gpu_that_was_asked_for(each: float, actors: int, ray_with_gpus) -> None:
    """Two GPUs that Ray is told of: where it places actors is its own count, no device is needed."""
    units = [Unit(f"unit-{number}", 1, None) for number in range(12)]
    seen = [answer for _, answer in ray_with_gpus.map(units, where_am_i, stateful=True, gpus_each=each)]
    devices = {pid: device for pid, device in seen}
    assert len(devices) == actors
    if each <= 1:
        counts = [list(devices.values()).count(device) for device in ("0", "1")]
        assert counts == [1 / each, 1 / each]
    else:
        assert set(devices.values()) == {"0,1"}


@pytest.mark.parametrize(
    ("each", "processes"), [(0.5, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1.0, 2), (2.0, 1)))]
)
def test_a_local_process_has_the_share_of_a_gpu_that_was_asked_for(
    each: float, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ray's actors; the devices are out of those that this process may see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    executor = LocalExecutor(4, 2)
    units = [Unit(f"unit-{number}", 1, None) for number in range(12)]
    try:
        seen = {answer for _, answer in executor.map(units, where_am_i, stateful=True, gpus_each=each)}
        stateless = {answer for _, answer in executor.map(units, where_am_i)} if each == 2 else set()
    finally:
        executor.close()
    devices = [device for _, device in seen]
    assert len({pid for pid, _ in seen}) == len(seen) == processes
    expected = {0.5: ["2", "2", "GPU-5", "GPU-5"], 1.0: ["2", "GPU-5"], 2.0: ["2,GPU-5"]}
    assert sorted(devices) == expected[each]
    if each == 2:
        assert 1 < len(stateless) <= 4, "a job without a model has the processors, and no place among the GPUs"


def end_once(unit: Unit) -> tuple[int, str]:
    if unit.name == "unit-1" and unit.attempt == 1:
        os._exit(1)
    return where_am_i(unit)


def test_a_local_process_that_dies_gives_its_gpu_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    executor = LocalExecutor(1, 2)
    units = [Unit(f"unit-{number}", 1, None) for number in range(6)]
    try:
        seen = [answer for _, answer in executor.map(units, end_once, stateful=True)]
    finally:
        executor.close()
    assert len(seen) == 6
    assert {device for _, device in seen} <= {"0", "1"}
    by_process = dict(seen)
    assert all(by_process[pid] == device for pid, device in seen)


def test_more_gpus_than_there_are_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES names 1 GPUs, --num-gpus asks for 2"):
        share_devices(2, 1.0)
    assert share_devices(0, 1.0) == []


@pytest.fixture(scope="module")
def ray_with_gpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # workers find this file
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a private cluster turns it on for this whole process
        executor = RayExecutor(4, 2, "local")
    assert executor.description.endswith("4 CPUs, 2 GPUs")
    yield executor
    executor.close()


def test_a_fraction_never_spans_two_gpus() -> None:
    assert [number_of_actors(2, each) for each in (0.25, 0.3, 0.4, 0.6, 1, 2)] == [8, 6, 4, 2, 2, 1]
    with pytest.raises(ConfigError, match="gpus_per_actor=4 is more than the 2 GPUs"):
        number_of_actors(2, 4)
    with pytest.raises(ConfigError, match="whole GPUs"):
        make_config(settings=["workers.gpus_per_actor=1.5"])
    with pytest.raises(ConfigError, match="decode_threads"):
        make_config(settings=["workers.decode_threads=-1"])


def test_how_work_is_spread_is_in_no_digest_and_no_run() -> None:
    plain = make_config("demo")
    spread = make_config("demo", settings=["workers.gpus_per_actor=0.25", "workers.decode_threads=7"])
    listed = {"sources": ["a"], "limit": None, "seed": None}
    assert make_run(spread, listed, "demo") == make_run(plain, listed, "demo")
    assert label("demo", spread) == "demo"


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_decode_threads_give_the_same_bytes(threads: int, tmp_path: Path, photo_paths: list[Path]) -> None:
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "coffee")))
    rows = []
    for number in range(7):
        data = cv2.imencode(".jpg", image[10 * number :][:120, 10 * number :][:, :120])[1].tobytes()
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data if number != 3 else data[:700])
        rows.append(
            {
                "uri": f"file://{path}",
                "key": f"{number:020d}",
                "sha256": f"{number:020d}",
                "offset": -1,
                "size": -1,
                "known": None,
            }
        )
    unit = Unit("unit-000000", 7, rows)

    def score(*settings: str) -> list[tuple[str, bytes]]:
        config = make_config("demo", settings=settings)
        ahead = count_decode_threads(config.workers, on_gpu=False)
        return list(MetricUnit(config.iqa, config.decode, "cpu", ahead)(unit))

    assert score(f"workers.decode_threads={threads}") == score()


def test_events_of_two_phases_do_not_meet(tmp_path: Path) -> None:
    unit = Unit("unit-000000", 5, None)
    for phase, outcome in (("score", "done"), ("niqe", "StorageError")):
        Events(Folder(tmp_path), phase).write(unit, 1, outcome, 12.0, seconds=3.0)
    lines = [json.loads(path.read_text()) for path in sorted((tmp_path / "events").iterdir())]
    assert [(line["phase"], line["unit"], line["outcome"]) for line in lines] == [
        ("niqe", "unit-000000", "StorageError"),
        ("score", "unit-000000", "done"),
    ]


def test_a_stall_is_a_line_and_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Flights()
    for number in range(6):
        found.started(Unit(f"unit-{number}", 1, None), attempt=1)
    found.say_stalled(Events(Folder(tmp_path), "score"))
    told = "no unit has ended for 60 s; in flight: unit-0, unit-1, unit-2, unit-3 and 2 more"
    assert told in capsys.readouterr().err
    (event,) = (json.loads(path.read_text()) for path in (tmp_path / "events").iterdir())
    assert (event["phase"], event["outcome"], len(event["in_flight"])) == ("score", "stalled", 6)


def test_the_progress_line_tells_of_attempts_and_stragglers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    found = Flights(clock=lambda: now[0])
    units = [Unit(f"unit-{number}", 10, None) for number in range(5)]
    for unit in units:
        found.started(unit, attempt=1)
    assert found.note() == "", "nothing to compare with yet"
    now[0] = 8.0
    for unit in units[:3]:
        found.ended(unit)
    now[0] = 24.0
    assert found.note() == "", "three times what the others took"
    now[0] = 30.0
    found.lost(None, units[4], 1)
    found.started(units[4], attempt=2)
    assert found.stragglers() == [("unit-3", 30.0)]
    monkeypatch.setattr("pipelines.execution.progress.flights", found)
    with Progress().phase("score", 40, 0) as advance:
        advance(40)
    assert "score: 40/40 (" in (line := capsys.readouterr().err)
    assert line.endswith("images/s, 1 tried again, waiting for unit-3 (30 s))\n")


def count_and_wait(unit: Unit) -> str:
    """Does 3 images of 4, or 2 when it is tried again, and goes on when the driver has seen so many; the first attempt
    dies then."""
    for _ in range(3 if unit.attempt == 1 else 2):
        count_done()
    seen = Path(unit.payload, f"seen-{unit.attempt}")
    while not seen.exists():
        time.sleep(0.05)
    if unit.attempt == 1:
        os._exit(1)
    count_done(2)
    return unit.name


class Told(Progress):
    """Lets `count_and_wait` go on by what is said."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.lines = folder, list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)
        for number, said in enumerate(("count: 3/4 ", "count: 2/4 "), start=1):
            if line.startswith(said):
                (self.folder / f"seen-{number}").touch()


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_progress_moves_inside_a_unit_and_counts_no_attempt_twice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The job goes on only when the driver has said what it counted: without progress inside, this would not end."""
    monkeypatch.setattr("pipelines.execution.progress.SECONDS_BETWEEN_LINES", 0.0)
    executor = request.getfixturevalue("ray_with_gpus") if kind == "ray" else LocalExecutor(1)
    progress, units = Told(tmp_path), [Unit("unit-0", 4, str(tmp_path))]
    with progress.phase("count", 4, 0) as advance:
        for unit, _ in executor.map(units, count_and_wait):
            advance(unit.size)
    if kind == "local":
        executor.close()
    moved = [line for line in progress.lines if not line.startswith("count: 0/4")]
    assert [line.split()[1] for line in moved] == ["3/4", "2/4", "4/4"]
    assert " left, 1 tried again)" in moved[1]
    assert " left" not in moved[2]


def test_units_of_the_next_phase_start_anew() -> None:
    found = Flights(clock=lambda: 1.0)
    found.started(Unit("unit-0", 1, None), attempt=2)
    found.clear()
    assert (found.retried, found.stragglers(), found.note()) == (0, [], "")
