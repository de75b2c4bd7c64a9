"""Every command that writes a folder, struck at a point of its work: repeated, it ends in the bytes of a quiet run.

One table: what is done, what strikes, and how far the work has come. A second one: what a stranger laid in the place of
a file of ours, and who reads it. `make faults` runs all of both, `make test` a part that is chosen by the hash of the
name. What must hold: no file that is half a file, nothing that is lost, no traceback (the error is one of ours), and
after a repeat the very bytes of a command that nothing struck.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lucidflux_data.audit.forget import forget, forget_pairs
from lucidflux_data.audit.report import make_report
from lucidflux_data.errors import Interrupted, LucidFluxError, StorageError
from lucidflux_data.growth.part import take_base
from lucidflux_data.pairs.job import is_pairs
from lucidflux_data.pairs.replay import replay_pair
from lucidflux_data.publish.card import write_card
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from pipelines.filter import job
from pipelines.filter.repair import retry, verify_run
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import QUIET, Here, run_filter, run_synthesize, select_into, verified
from tests.support.killing import killed_after
from tests.support.paths import ROOT

RULES = ["iqa.metric=niqe", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_flat_fraction=1"]
RULES += ["rules.max_laplacian_variance=999999", "cut.top_fraction=0.9", "shards.max_samples=3"]
PAIRS = ["degrade.size=96", "variants=1", "shards.max_samples=3", "degrade.crop.too_small=reflect"]
SHARE_IN_A_QUICK_RUN = 5  # one in so many


def change(settings: list[str], steps: tuple[str, ...]) -> Callable[[Path, Path], None]:
    """`select` or `pack` of a run that is there, under other settings."""

    def call(place: Path, _: Path) -> None:
        folder = Folder(place)
        base = FilterConfig.model_validate(runs.read_run(folder)["config"])
        config = make_config(settings=settings, base=base)
        if "select" in steps:
            job.select(folder, config, Here(), QUIET)
        job.pack(folder, config, Here(), QUIET)

    return call


def forget_first(place: Path, _: Path) -> None:
    """The image whose key is the first of the shards."""
    forget_one = forget_pairs if is_pairs(Folder(place)) else forget
    forget_one(Folder(place), [(place / "gone.txt").read_text()])


def include(place: Path, photos: Path) -> None:
    """The same photos as a source of its own beside the rules."""
    folder = Folder(place)
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    job.include(folder, [str(photos)], config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)


def card(place: Path, _: Path) -> None:
    with hold(Folder(place), 0.0):
        write_card(Folder(place), "name", None, None, False, "main")


def repair(place: Path, _: Path) -> None:
    check = verify_pairs if is_pairs(Folder(place)) else verify_run
    check(Folder(place), False, True, Here(), QUIET)


def add_to_a_set(place: Path, photos: Path) -> None:
    """A run of two other photos, to the set beside the photos."""
    folder = Folder(place)
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    take_base(folder, str(photos.parent / "base"), config)
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)


@dataclass(frozen=True)
class Command:
    """`origin`: the folder that it begins with (see `origins`), or none; `call(place, photos)`."""

    origin: str | None
    call: Callable[[Path, Path], Any]


COMMANDS = {
    "filter": Command(None, lambda place, photos: run_filter(photos, place, *RULES)),
    "synthesize": Command(None, lambda place, photos: run_synthesize(photos, place, *PAIRS)),
    "select other rules": Command("run", change(["cut.top_fraction=0.5"], ("select", "pack"))),
    "pack larger shards": Command("run", change(["shards.max_samples=5"], ("pack",))),
    "pack smaller shards": Command("run", change(["shards.max_samples=2"], ("pack",))),
    "pack and strip": Command("run", change(["shards.strip=gps"], ("pack",))),
    "add to a set": Command("addition", add_to_a_set),
    "forget in a run": Command("run", forget_first),
    "forget in pairs": Command("pairs", forget_first),
    "repair a run": Command("damaged run", repair),
    "repair pairs": Command("damaged pairs", repair),
    "include a source": Command("run", include),
    "card": Command("run", card),
    "retry": Command("run", lambda place, photos: retry(Folder(place), ["not_an_image"], Here(), QUIET)),
}
STRIKES = {"killed": 10, "disk full": 5, "store does not answer": 4}  # points of the work at which each strikes
SCENARIOS = [
    (f"{command}, {strike} at {point + 1}/{points}", command, strike, (point + 1) / points)
    for command in COMMANDS
    for strike, points in STRIKES.items()
    for point in range(points)
]


def replace_by_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def replace_by_hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 40 << 30)


DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
LAID: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a device": replace_by_link,
    "40 GB of nothing": replace_by_hole,
    "JSON of 100,000 levels": lambda path: path.write_text(DEEP),
    "a folder": Path.mkdir,
}
READERS: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "verify a run": (
        "run",
        lambda place: verify_run(Folder(place), True, False, Here(), QUIET),
        ("run.json", "manifest.json", "selected.parquet", "inventory.parquet", "scores/basic/unit-000000.parquet"),
    ),
    "select": (
        "run",
        lambda place: COMMANDS["select other rules"].call(place, place),
        ("run.json", "inventory.parquet"),
    ),
    "report": ("run", lambda place: make_report(Folder(place)), ("run.json", "selected.parquet")),
    "forget": ("run", lambda place: forget_first(place, place), ("run.json", "manifest.json")),
    "verify pairs": (
        "pairs",
        lambda place: verify_pairs(Folder(place), True, False, Here(), QUIET),
        ("run.json", "manifest.json", "shards/pairs-000000.index.parquet", "inputs/unit-000000.parquet"),
    ),
    "replay": ("pairs", lambda place: replay_pair(Folder(place), "0" * 20 + "_00"), ("run.json", "manifest.json")),
}
STRANGERS = [
    (f"{reader}, {laid} in the place of {file}", reader, laid, file)
    for reader, (_, _, files) in READERS.items()
    for laid in LAID
    for file in files
]


def is_chosen(name: str, share: int = SHARE_IN_A_QUICK_RUN) -> bool:
    return os.environ.get("LUCIDFLUX_FAULTS") == "all" or zlib.crc32(name.encode()) % share == 0


def tree(place: Path) -> dict[str, bytes]:
    files = [path for path in place.rglob("*") if path.is_file() and path.name != ".lease"]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Nine cuts of a photo, some with a comment, and a file that is no image."""
    folder = tmp_path_factory.mktemp("struck") / "photos"
    folder.mkdir()
    photo = Image.open(next(path for path in photo_paths if path.stem == "chelsea")).convert("RGB")
    for number in range(9):
        buffer = io.BytesIO()
        more: dict[str, Any] = {"comment": b"taken at home"} if number % 2 else {}
        photo.crop((10 * number, 15 * number, 10 * number + 200, 15 * number + 180)).save(buffer, "JPEG", **more)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    (folder / "none.jpg").write_bytes(b"no image")
    (folder.parent / "more").mkdir()
    for number in range(2):
        photo.crop((200 - 10 * number, 90, 400 - 10 * number, 270)).save(folder.parent / "more" / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def origins(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A packed run, a folder of pairs, and both with a flipped bit in the first tar and without the second index."""
    place = tmp_path_factory.mktemp("origins")
    run_filter(photos, place / "run", *RULES)
    run_synthesize(photos, place / "pairs", *PAIRS)
    run_filter(photos, photos.parent / "base", *RULES)
    select_into(photos.parent / "more", place / "addition", *RULES)
    found = {"run": place / "run", "pairs": place / "pairs", "addition": place / "addition"}
    for kind in ("run", "pairs"):
        tar, second = sorted((place / kind / "shards").glob("*.tar"))[:2]
        (place / kind / "gone.txt").write_text(first_key(place / kind))
        damaged = Path(shutil.copytree(place / kind, place / f"damaged {kind}"))
        data = bytearray(tar.read_bytes())
        data[700] ^= 1
        (damaged / "shards" / tar.name).write_bytes(data)
        (damaged / "shards" / f"{second.stem}.index.parquet").unlink()
        found[f"damaged {kind}"] = damaged
    return found


def first_key(place: Path) -> str:
    index = sorted((place / "shards").glob("*.index.parquet"))[0]
    return str(Folder(place).read_table(f"shards/{index.name}", ["key"])["key"][0].as_py())[:20]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every command works, in turn: a run names its own list of forgotten images by its path."""
    return tmp_path_factory.mktemp("place") / "place"


@pytest.fixture(scope="module")
def quiet_of(photos: Path, origins: dict[str, Path], place: Path) -> Callable[[str], tuple[dict[str, bytes], int]]:
    """What a command makes when nothing strikes, and how many publishes and renames that takes; once a command."""
    known: dict[str, tuple[dict[str, bytes], int]] = {}

    def quiet(command: str) -> tuple[dict[str, bytes], int]:
        if command not in known:
            begin(command, origins, place)
            with pytest.MonkeyPatch.context() as patch, killed_after(patch, 10**6) as steps:
                COMMANDS[command].call(place, photos)
            known[command] = tree(place), len(steps)
        return known[command]

    return quiet


def begin(command: str, origins: dict[str, Path], place: Path) -> None:
    origin = COMMANDS[command].origin
    shutil.rmtree(place, ignore_errors=True)
    if origin is not None:
        shutil.copytree(origins[origin], place)


@contextlib.contextmanager
def failing_after(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> Iterator[None]:
    """From the publish of this number on, every one fails: a disk that is full stays full."""
    publish, count = Folder._publish_local, [0]

    def published(self: Folder, name: str, content: Any) -> None:
        count[0] += 1
        if count[0] >= number:
            raise error
        publish(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_publish_local", published)
        yield


@pytest.mark.parametrize(
    ("command", "strike", "share"),
    [pytest.param(*scenario[1:], id=scenario[0]) for scenario in SCENARIOS if is_chosen(scenario[0])],
)
def test_struck_and_repeated_it_ends_in_the_bytes_of_a_quiet_run(
    command: str, strike: str, share: float, photos: Path, origins, quiet_of, place: Path, monkeypatch
) -> None:
    quiet, steps = quiet_of(command)
    begin(command, origins, place)
    number = max(1, math.ceil(share * steps))
    if strike == "killed":
        with killed_after(monkeypatch, number):
            COMMANDS[command].call(place, photos)
    else:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = full if strike == "disk full" else StorageError("the store did not answer: repeat the command")
        with failing_after(monkeypatch, number, error), contextlib.suppress(Interrupted):
            COMMANDS[command].call(place, photos)  # a late point may come after the last publish
    COMMANDS[command].call(place, photos)
    assert tree(place) == quiet
    assert verified(place) > 0


@pytest.mark.parametrize(
    ("reader", "laid", "file"),
    [pytest.param(*scenario[1:], id=scenario[0]) for scenario in STRANGERS if is_chosen(scenario[0])],
)
def test_what_a_stranger_laid_in_a_folder_is_told_in_a_sentence(
    reader: str, laid: str, file: str, origins: dict[str, Path], tmp_path: Path
) -> None:
    """Nothing waits, nothing is read without end, and the error is one of ours."""
    origin, call, _ = READERS[reader]
    place = Path(shutil.copytree(origins[origin], tmp_path / "place"))
    (place / file).unlink()
    LAID[laid](place / file)
    with pytest.raises(LucidFluxError) as told:
        call(place)
    assert "\n" not in str(told.value)


def test_the_pages_tell_how_many_scenarios_there_are() -> None:
    told = f"{len(SCENARIOS)} points and {len(STRANGERS)} laid files"
    for page in ("security.md", "cluster.md"):
        assert told in (ROOT / "docs" / page).read_text(), page


def test_the_table_has_some_two_hundred_scenarios_and_a_quick_run_meets_each_command_and_each_strike() -> None:
    assert len(SCENARIOS) >= 200
    chosen = [scenario for scenario in SCENARIOS if zlib.crc32(scenario[0].encode()) % SHARE_IN_A_QUICK_RUN == 0]
    assert {scenario[1] for scenario in chosen} == COMMANDS.keys()
    assert {scenario[2] for scenario in chosen} == STRIKES.keys()
