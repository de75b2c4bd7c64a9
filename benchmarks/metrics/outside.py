"""Metrics that need an environment of their own, as data files in outside_files/: a command over a list gives a csv.

    images -> list.csv (id,path) -> command in the metric's environment -> scores.csv (id,value) -> a value or a reason

A command is a template over {python} {script} {list} {scores} {weights} {seed}. No row, or a row that is no number in
the metric's range, is `metric_failed`: a value is never made up. Where repository, interpreter and weights are on a
machine, says the TOML file that $LUCIDFLUX_METRICS names: a table a metric, which may name a file of the user's own.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import math
import os
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from benchmarks.data_files import FileModel, Flag, RepositoryFile, Text, Word, read_toml, validate
from benchmarks.environment import commit
from benchmarks.methods.run import packages_of, run_command
from benchmarks.methods.staging import stage
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.escapes import show
from lucidflux_data.iqa.pins import DATA, file_sha256, why_not_opened

OUTSIDE_FILES = Path(__file__).with_name("outside_files")
PLACES = "LUCIDFLUX_METRICS"
DRAWS = 5  # of a stochastic metric
DAY_S = 86_400.0  # a run over all images, longer than which nobody waits without having said so
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class OutsideFile(RepositoryFile):
    """The keys of a file. `sha256`: of its weights' files, as far as they are known; `prompt` and `decoding`: what they
    are, for the reader, and for the fingerprint; `script`: a file beside it, run as {script}."""

    sha256: tuple[Sha256, ...] = ()
    lower_is_better: Flag
    range: tuple[float, float]
    stochastic: Flag
    prompt: Text = ""
    decoding: Text = ""
    script: Word | None = None


class Place(FileModel):
    """Where a metric is on this machine: folders of its checkout and of its weights, and its interpreter.
    `timeout_s`: seconds after which one run of its program is stopped."""

    repo: Word
    weights: Word
    python: Word = "python"
    file: Word | None = None
    timeout_s: float = Field(DAY_S, gt=0, allow_inf_nan=False)


class Outside(OutsideFile):
    """`source`: the data file."""

    name: Word
    source: Path = Field(exclude=True)


def outside_names() -> list[str]:
    """Those that are shipped, and those that $LUCIDFLUX_METRICS adds."""
    own = [name for name, place in _places().items() if place.file]
    return sorted({path.stem for path in OUTSIDE_FILES.glob("*.toml")} | set(own))


def load_outside(name: str) -> Outside:
    """A metric by name. ConfigError for a file that is none."""
    place = _places().get(name)
    file = Path(place.file).expanduser() if place and place.file else OUTSIDE_FILES / f"{name}.toml"
    return _load(name, file, file.stat().st_mtime_ns if file.exists() else 0)


@functools.lru_cache(maxsize=32)
def _load(name: str, file: Path, _changed: int) -> Outside:
    content = validate(OutsideFile, read_toml(file), file)
    return Outside(**content.model_dump(), name=name, source=file)


def _places() -> dict[str, Place]:
    file = os.environ.get(PLACES)
    if not file:
        return {}
    return {name: validate(Place, row, Path(file), below=name) for name, row in read_toml(Path(file)).items()}


def problem(name: str) -> str | None:
    """Why a metric cannot run here, as one sentence; None where it can."""
    about, place = load_outside(name), _places().get(name)
    if place is None:
        return (
            f"{name} runs in an environment of its own ({about.repository} at {about.commit}): {PLACES} names a TOML "
            f"file with the table [{name}], keys repo, weights, python"
        )
    repo, weights = Path(place.repo).expanduser(), Path(place.weights).expanduser()
    for what, folder in (("repo", repo), ("weights", weights)):
        if not folder.is_dir():
            return f"{name}: {what} = {folder} is no folder ({PLACES})"
    there = commit(repo)
    if not there or not there.startswith(about.commit) or there.endswith("-dirty"):
        return f"{name} was read at commit {about.commit} of {about.repository}; {repo} is at {there or 'none'}"
    wrong = wrong_weights(name)
    return f"{name} is not run: {wrong[0]}" if wrong else None


def wrong_weights(name: str) -> list[str]:
    """Why files of its weights may not be opened: neither pinned in its file nor trusted by the user."""
    place = _places().get(name)
    if place is None:
        return []
    pinned = frozenset(load_outside(name).sha256)
    files = [path for path in _files(Path(place.weights).expanduser()) if path.suffix not in DATA]
    return [why for path in files if (why := why_not_opened(path, pinned))]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)


def fingerprint(name: str, draw: int) -> str:
    """Hex digits: the file with prompt and decoding, its script, all weights, packages of the environment, the draw."""
    about, place = load_outside(name), _places()[name]
    script = (about.source.parent / about.script).read_bytes() if about.script else b""
    weights = [(path.name, file_sha256(path)) for path in _files(Path(place.weights).expanduser())]
    made = [about.model_dump(), hashlib.sha256(script).hexdigest(), weights, _packages(place.python), draw]
    return digest(made)[:16]


_packages = functools.cache(packages_of)


def run_outside(name: str, images: dict[str, str], draw: int) -> dict[str, float | str]:
    """id -> value, or why there is none, of images (id -> path), by one run of the command.

    What it wrote counts, however it ended: by itself, or stopped at its limit. ConfigError where it cannot be run, or
    wrote nothing.
    """
    about, place = load_outside(name), _places()[name]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        listed, reasons = _stage(images, work / "images")
        with (work / "list.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "path"), *listed])
        given = {
            "python": place.python,
            "script": about.source.parent / (about.script or ""),
            "list": work / "list.csv",
            "scores": work / "scores.csv",
            "weights": Path(place.weights).expanduser().absolute(),
            "seed": draw,
        }
        argv = [part.format(**given) for part in shlex.split(about.command)]
        ended = run_command(argv, Path(place.repo).expanduser(), work / "log.txt", place.timeout_s)
        rows = _read(work / "scores.csv")
    end = f"was stopped after {place.timeout_s:g} s (timeout_s in {PLACES})" if ended["timed_out"] else ""
    if not rows:
        end = end or f"ended with exit code {ended['exit_code']}"
        raise ConfigError(f"{name} {end} and gave no score: {show(ended['last_line'])}")
    lacking = f"no row: it {end}" if end else "no row"
    return {id_: reasons.get(id_) or _value(rows.get(id_, []), about.range, lacking) for id_ in images}


def _stage(images: dict[str, str], folder: Path) -> tuple[list[tuple[str, Path]], dict[str, str]]:
    """(id, file that is upright and that every program reads) of each image, and why there is none of the others."""
    listed, reasons = [], {}
    for id_, path in images.items():
        try:
            stage({id_: Path(path)}, folder / id_, "png")
        except InputError as error:
            reasons[id_] = show(str(error))
        else:
            listed += [(id_, file) for file in (folder / id_).iterdir()]
    return listed, reasons


def _read(file: Path) -> dict[str, list[str]]:
    """id -> what the rows of that id have as value."""
    rows: dict[str, list[str]] = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8", errors="replace") as opened:
            for row in csv.reader(opened):
                if len(row) == 2 and row != ["id", "value"]:
                    rows.setdefault(row[0], []).append(row[1])
    return rows


def _value(cells: list[str], bounds: tuple[float, float], lacking: str = "no row") -> float | str:
    if len(cells) != 1:
        return lacking if not cells else f"{len(cells)} rows"
    try:
        value = float(cells[0])
    except ValueError:
        return f"no number: {show(cells[0])[:40]}"
    if not math.isfinite(value) or not bounds[0] <= value <= bounds[1]:
        return f"{value:g} is not within {bounds[0]:g} to {bounds[1]:g}"
    return value
