"""Commands that write beside the rooms of `test_scenarios.py`, struck after their N-th rename, whoever makes it.

Run as a user runs them, in this process: killed there, or met by a full disk there (exit code 5, one sentence), and
repeated. What must hold: the bytes of a quiet run, but for clocks and memory, and no file beside them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest
import torch
import typer

import cli
from lucidflux_data.storage.lease import NAME
from pipelines.execution import opening
from tests.faults.test_scenarios import first_key, is_chosen
from tests.support import training
from tests.support.here import run_filter, run_synthesize
from tests.support.killing import struck_after_rename
from tests.support.paths import ROOT

torch.set_num_threads(1)  # threads that spin beside others take 50 times as long
RULES = [
    "iqa.metric=none",
    "rules.min_side=64",
    "rules.min_laplacian_variance=0",
    "rules.max_laplacian_variance=999999",
]
RULES += ["rules.max_flat_fraction=1", "shards.max_samples=3"]
PAIRS = ["degrade.size=96", "variants=1", "shards.max_samples=3", "degrade.crop.too_small=reflect"]
LOCAL = "--executor local --num-cpus 1"
TRAIN = " ".join(f"--set {setting}" for setting in (*training.SETTINGS, "steps=5", "batch_size=2"))

# The command -> its words, and what it begins with in {place}. {given} holds what is read alone.
COMMANDS: dict[str, tuple[str, str | None]] = {
    "lucidflux bench eval": (
        "--outputs {given}/photos {given}/other --gt {given}/photos --metrics psnr,ssim --resamples 100 --num-cpus 1 "
        "--cache {place}/cache --out {place}/results",
        None,
    ),
    "lucidflux bench infer": ("bicubic --inputs {given}/photos --out {place}", None),
    "lucidflux bench vote": ("--outputs a={given}/photos b={given}/other --out {place}", None),
    "lucidflux restore": ("{given}/photos --out {place} --model tiny --steps 1 --upscale 1", None),
    "lucidflux cache": ("{place} --model tiny --kinds latent,proxy " + LOCAL, "pairs"),
    "lucidflux train": ("--data {given}/pairs --out {place} --resume " + TRAIN, None),
    "lucidflux weights convert": ("{given}/files --out {place}/new --model tiny", None),
    "lucidflux weights export": ("{given}/weights --out {place}/lucidflux.safetensors", None),
    "lucidflux-data score": ("{given}/photos --out {place} --iqa none " + LOCAL, None),
    "lucidflux-data fingerprint": ("{given}/photos --name mine --out {place}/mine.parquet", None),
    "lucidflux-data replay": ("{given}/pairs {pair} --out {place}", None),
    "lucidflux-data view": ("{given}/pairs --out {place}/pairs.html", None),
    "lucidflux-data report": ("{place}", "run"),
    "lucidflux-data explore": ("{place}", "run"),
    "lucidflux-data plan": ("{given}/photos --num-cpus 1 --sample 1 --iqa none --out {place}", None),
}
DONE_AT_ONCE = {"lucidflux weights convert"}  # by its one rename: killed right behind it, it is told that it is done
ELSEWHERE = {  # the others that write, and where they are struck
    **dict.fromkeys(
        ("filter", "synthesize", "select", "pack", "forget", "verify", "card", "retry"),
        "tests/faults/test_scenarios.py",
    ),
    "push": "tests/faults/test_scenarios.py",  # here it writes the card; the rest is the hub's
    "bench prepare": "tests/benchmarks/suites/test_struck.py",
    "demo": "tests/faults/test_scenarios.py",  # filter, synthesize and bench eval, one after the other
    "weights download": "tests/lucidflux_model/conversion/test_convert.py",  # cut off by the hub, and resumed
    "weights prompt": "tests/faults/test_renames.py",  # one file, by what `weights export` writes with
}
STRIKES = {"killed": 4, "disk full": 2}
SHARE = 10  # one in so many in a quick run: each begins a command
SCENARIOS = [
    (f"{command}, {strike} at {point + 1}/{points}", command, strike, point, points)
    for command in COMMANDS
    for strike, points in STRIKES.items()
    for point in range(points)
]
# What a clock, a machine's memory or the number of calls decides.
CLOCKS = {"seconds", "seconds_an_image", "seconds_per_image", "peak_memory_bytes", "peak_rss_mb", "peak_gpu_mb", "runs"}
CLOCKS |= {"wall_seconds", "time", *training.TIMED, "images_per_second"}


class Here(training.Here):
    def __init__(self, *_: object) -> None:
        """Opened as LocalExecutor is."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Photos and others of their names, a run, pairs, published files and converted weights."""
    from lucidflux_model.conversion.convert import convert
    from lucidflux_model.network.build import build_random
    from tests.support.published_files import write_published

    place = tmp_path_factory.mktemp("given")
    for name in ("photos", "other", "files"):
        (place / name).mkdir()
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "chelsea")))
    for number in range(5):
        cut = image[20 * number :, 10 * number :][:110, :110]
        cv2.imwrite(str(place / "photos" / f"{number}.png"), cut)
        cv2.imwrite(str(place / "other" / f"{number}.png"), cv2.GaussianBlur(cut, (0, 0), 1 + number / 4))
    run_filter(place / "photos", place / "run", *RULES)
    run_synthesize(place / "run", place / "pairs", *PAIRS)
    write_published(build_random("tiny"), place / "files")
    convert(place / "files", place / "weights", "tiny", lambda _: None)
    return place


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LocalExecutor", Here)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every command works, in turn: some name their folder in what they write."""
    return tmp_path_factory.mktemp("work") / "place"


def begin(command: str, given: Path, place: Path) -> None:
    shutil.rmtree(place.parent)
    place.parent.mkdir()
    origin = COMMANDS[command][1]
    if origin is not None:
        shutil.copytree(given / origin, place)


def call(command: str, given: Path, place: Path) -> int:
    """The exit code."""
    program, *verbs = command.split()
    pair = f"{first_key(given / 'pairs')}_00"
    words = COMMANDS[command][0].format(given=given, place=place, pair=pair).split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *verbs, *words])
        try:
            cli.lucidflux_main() if program == "lucidflux" else cli.data_main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_clocks(inner) for name, inner in value.items() if name not in CLOCKS}
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value


def tree(folder: Path) -> dict[str, object]:
    """Name -> bytes, or the values of a file of values."""
    found: dict[str, object] = {}
    trained = (folder / "place" / "metrics.jsonl").exists()
    for path in sorted(path for path in folder.rglob("*") if path.name != NAME):
        name, content = str(path.relative_to(folder)), path.read_bytes() if path.is_file() else b""
        if trained and path.name == "report.html":
            found[name] = len(content) > 0  # its plots are of clocks
        elif path.name == "plan.json":
            found[name] = sorted(json.loads(content))  # what reading and decoding took here, and what follows from it
        elif path.suffix == ".json" and path.name != "checksums.json":
            found[name] = without_clocks(json.loads(content))
        elif path.suffix == ".jsonl":
            found[name] = [without_clocks(json.loads(line)) for line in content.splitlines()]
        elif path.suffix == ".parquet" and CLOCKS & set(pq.read_schema(path).names):
            found[name] = without_clocks(pq.read_table(path).to_pylist())
        else:
            found[name] = content
    return found


@pytest.fixture(scope="module")
def quiet_of(given: Path, place: Path) -> Callable[[str], tuple[dict[str, object], list[str]]]:
    """What a command makes when nothing strikes, and the names that it gives; once a command."""
    known: dict[str, tuple[dict[str, object], list[str]]] = {}

    def quiet(command: str) -> tuple[dict[str, object], list[str]]:
        if command not in known:
            begin(command, given, place)
            with pytest.MonkeyPatch.context() as patch, struck_after_rename(patch, place.parent, 10**6) as names:
                assert call(command, given, place) == 0
            known[command] = tree(place.parent), names
        return known[command]

    return quiet


@pytest.mark.parametrize(
    ("command", "strike", "point", "points"),
    [pytest.param(*scenario[1:], id=scenario[0]) for scenario in SCENARIOS if is_chosen(scenario[0], SHARE)],
)
def test_struck_after_a_rename_and_repeated_it_ends_in_what_a_quiet_run_makes(
    command: str, strike: str, point: int, points: int, given: Path, place: Path, quiet_of, monkeypatch, capfd
) -> None:
    quiet, names = quiet_of(command)
    number = 1 + point * len(names) // points
    begin(command, given, place)
    capfd.readouterr()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if strike == "disk full" else None
    with struck_after_rename(monkeypatch, place.parent, number, full):
        code = call(command, given, place)
        assert (full is not None, code) == (True, 5)
    said = capfd.readouterr().err
    assert "internal error" not in said
    assert "Traceback" not in said
    assert full is None or "no space left" in said.lower()
    again = call(command, given, place)
    told = capfd.readouterr().err
    assert again == 0 or (again == 2 and command in DONE_AT_ONCE and "is there already" in told), told
    found = tree(place.parent)
    assert found.keys() == quiet.keys()
    assert [name for name, content in found.items() if content != quiet[name]] == []


def writers(group: Any, name: str) -> Iterator[str]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from writers(command, f"{name} {word}")
        elif any("--wait" in parameter.opts for parameter in command.params):
            yield f"{name} {word}"


def test_every_command_that_writes_is_struck_somewhere() -> None:
    programs = {"lucidflux": cli.app, "lucidflux-data": cli.data_app}
    known = {name for program, app in programs.items() for name in writers(typer.main.get_command(app), program)}
    elsewhere = {name for name in known if name.partition(" ")[2] in ELSEWHERE}
    assert known - elsewhere == COMMANDS.keys()
    assert len(elsewhere) == len(ELSEWHERE)
    assert all((ROOT / file).exists() for file in ELSEWHERE.values())


def test_the_pages_tell_how_many_renames_are_struck() -> None:
    for page in ("security.md", "cluster.md"):
        assert f"{len(SCENARIOS)} renames" in (ROOT / "docs" / page).read_text(), page


def test_a_quick_run_meets_each_strike() -> None:
    chosen = [scenario for scenario in SCENARIOS if zlib.crc32(scenario[0].encode()) % SHARE == 0]
    assert {scenario[2] for scenario in chosen} == STRIKES.keys()
