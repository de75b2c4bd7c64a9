"""Every command ends with commands that can be typed as they stand, in folders whose names have to be quoted."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from docs.hooks.commands import APPS, read_program, walk
from tests.support.commands import check, next_commands, told_of

HERE = ("--num-cpus", "1", "--executor", "local")
RULES = ("--preset", "demo", "--set", "rules.max_flat_fraction=1", "--where", "height > 2")
SETTINGS = ("--set", "rules.min_side=20", "--top-fraction", "0.9")
SCORER = "def rate(images):\n    return {'word': ['a' for _ in images], 'sharpness': [1.0 for _ in images]}\n"

# Every command on sets and methods, in the order in which they are run, with what it is given; {photos}, {run} and the
# like are places of the fixture. Those of models are run by tests of theirs, which `told_of` finds.
TYPED: dict[str, list[tuple[str, ...]]] = {
    "lucidflux-data plan": [("{photos}", *RULES, "--num-cpus", "64")],
    "lucidflux-data filter": [
        ("{photos}", "-o", "{run}", *RULES, *HERE, "--dry-run"),
        ("{photos}", "-o", "{run}", *RULES, *HERE),
    ],
    "lucidflux-data score": [
        ("{photos}", "--out", "{run}", "--preset", "demo", *HERE, "--dry-run"),
        ("{run}", "--scorer", "rates_of_mine:rate", *HERE),
    ],
    "lucidflux-data what-if": [("{run}", *SETTINGS)],
    "lucidflux-data explain": [("{run}", "{photos}/coffee.png")],
    "lucidflux-data report": [("{run}",)],
    "lucidflux-data explore": [("{run}",)],
    "lucidflux-data diff": [("{run}", "{run}")],
    "lucidflux-data select": [("{run}", "--min-side", "20", "--dry-run"), ("{run}", *HERE)],
    "lucidflux-data pack": [("{run}", "--dry-run"), ("{run}", *HERE)],
    "lucidflux-data verify": [("{run}", *HERE), ("{run}", "--deep", *HERE)],
    "lucidflux-data retry": [("{run}", "--status", "truncated", *HERE)],
    "lucidflux-data fingerprint": [("{photos}", "--name", "mine", "--out", "{more}/a.parquet")],
    "lucidflux-data synthesize": [
        ("{run}", "--out", "{pairs}", "--size", "256", "--variants", "1", *HERE, "--dry-run"),
        ("{run}", "--out", "{pairs}", "--size", "256", "--variants", "1", *HERE),
    ],
    "lucidflux-data info": [("{pairs}",)],
    "lucidflux-data view": [("{pairs}",)],
    "lucidflux-data replay": [("{pairs}", "{pair}", "--out", "{more}/lq")],
    "lucidflux-data card": [("{run}",)],
    "lucidflux-data push": [("{run}", "--to", "hf://datasets/lab/set", "--num-cpus", "1", "--dry-run")],
    "lucidflux-data forget": [("{run}", "{key}")],
    "lucidflux bench infer": [
        ("bicubic", "--inputs", "{photos}", "--scale", "2", "--out", "{made}", "--dry-run"),
        ("bicubic", "--inputs", "{photos}", "--scale", "2", "--out", "{made}"),
        ("lanczos", "--inputs", "{photos}", "--scale", "2", "--out", "{made}"),
    ],
    "lucidflux bench eval": [("--outputs", "{made}", "--metrics", "niqe", "--out", "{board}", "--num-cpus", "1")],
    "lucidflux bench vote": [
        ("--outputs", "{made}", "--out", "{voting}", "--trials", "4", "--dry-run"),
        ("--outputs", "{made}", "--out", "{voting}", "--trials", "4"),
    ],
    "lucidflux bench compare": [("{board}:bicubic", "{board}:lanczos")],
    "lucidflux bench suites": [()],
    "lucidflux bench prepare": [("offline-photos", "--suites-dir", "{suites}")],
    "lucidflux bench published": [("--suite", "reallq250")],
    "lucidflux bench doctor": [()],
    "lucidflux doctor": [(), ("niqe",)],
    "lucidflux-data doctor": [()],
}
NAMES = {full for program in APPS for full, _ in walk(read_program(program), program)}


def test_the_end_of_every_command_is_read_somewhere() -> None:
    assert NAMES - TYPED.keys() - told_of() == set()
    assert (TYPED.keys() | told_of()) - NAMES == set()


@dataclass
class World:
    """Places by name, and what each command said at its end."""

    home: Path
    ends: dict[str, list[list[str]]] = field(default_factory=dict)

    def place(self, name: str) -> str:
        return str(self.home / f"my {name}")

    def fill(self, word: str) -> str:
        if word == "{pair}":
            (index,) = Path(self.place("pairs"), "shards").glob("*.parquet")
            return str(pq.read_table(index)["key"][0])
        if word == "{key}":
            rows = pq.read_table(Path(self.place("run"), "selected.parquet")).to_pylist()
            return str(next(row["key"] for row in rows if row["keep"]))
        return word.format_map({name: self.place(name) for name in PLACES})

    def type(self, name: str, words: tuple[str, ...]) -> None:
        program, *verb = name.split()
        done = CliRunner().invoke(APPS[program], [*verb, *map(self.fill, words)], env={"COLUMNS": "80"})
        assert done.exit_code == 0, (name, words, done.output, done.exception)
        self.ends.setdefault(name, []).append(next_commands(done.stdout, name))


PLACES = ("photos", "run", "pairs", "more", "made", "board", "voting", "suites")


@pytest.fixture(scope="module")
def world(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"))
    for name in ("photos", "more"):
        Path(world.place(name)).mkdir()
    for path in (path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee")):
        image = cv2.imread(str(path))
        for name, pixels in ((path.stem, image[:260, :260]), (f"{path.stem}2", image[-260:, -260:])):
            cv2.imwrite(f"{world.place('photos')}/{name}.png", pixels)
    (world.home / "rates_of_mine.py").write_text(SCORER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.home)
        patch.setenv("XDG_CACHE_HOME", str(world.home / "cache"))
        yield world


@pytest.mark.parametrize("name", TYPED)
def test_a_command_ends_with_commands_that_can_be_typed(name: str, world: World) -> None:
    """`next_commands` parses each; those before it in the table are run first."""
    for before in list(TYPED)[: list(TYPED).index(name) + 1]:
        if before not in world.ends:
            for words in TYPED[before]:
                world.type(before, words)
    assert len(world.ends[name]) == len(TYPED[name])
    assert all(world.ends[name])


def joined(*words: str) -> str:
    return " ".join(map(shlex.quote, words))


def test_what_was_given_is_in_the_command_that_follows(world: World) -> None:
    """Needs the ends of the commands above."""
    fill: Callable[[str], str] = world.fill
    photos, run = fill("{photos}"), fill("{run}")
    for name in TYPED:
        test_a_command_ends_with_commands_that_can_be_typed(name, world)
    assert world.ends["lucidflux-data plan"][0][0] == joined("lucidflux-data", "filter", photos, "--out", "RUN", *RULES)
    planned, done = world.ends["lucidflux-data filter"]
    assert planned[0] == joined("lucidflux-data", "filter", photos, "--out", run, *RULES, *HERE)
    assert done[0] == joined("lucidflux-data", "explain", run, "NAME")
    assert world.ends["lucidflux-data what-if"][0] == [joined("lucidflux-data", "select", run, *SETTINGS)]
    assert world.ends["lucidflux-data score"][1] == [
        joined("lucidflux-data", "select", run, "--where", "sharpness > VALUE")
    ]
    assert os.path.isdir(world.place("suites"))


@pytest.mark.parametrize(
    "command",
    [
        "lucidflux-data choose RUN",
        "lucidflux-data select RUN --were x",
        "lucidflux-data select /not/there",
        "lucidflux-data select RUN --set rules.min_sid=3",
        "lucidflux bench compare /not/there:a RESULTS:b",
        "lucidflux weights verify",
    ],
)
def test_a_command_that_cannot_be_typed_is_found(command: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 - click's, ours or an assertion
        check(command)
