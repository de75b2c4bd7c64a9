"""The keys of method.json, which `bench infer` writes beside the outputs of a method and the leaderboard reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

from pydantic import ConfigDict, Field

from benchmarks.data_files import FileModel, Text, read_json, validate
from lucidflux_data.errors import ConfigError, InputError

METHOD_FILE = "method.json"


class CommandRecord(TypedDict):
    """How one command of an adapter went."""

    exit_code: int
    timed_out: bool
    wall_seconds: float
    peak_gpu_mb: int | None  # of all its processes; None without an NVIDIA driver
    peak_rss_mb: int | None
    last_line: str  # that it printed


class RunRecord(TypedDict):
    """One run that made images; of our own methods without `peak_rss_mb` and `last_line`."""

    exit_code: int
    timed_out: bool
    wall_seconds: float
    peak_gpu_mb: int | None
    peak_rss_mb: NotRequired[int | None]
    last_line: NotRequired[str]
    images: int  # that it made
    missing: list[str]  # ids that it did not make
    wrong_size: list[str]  # ids whose output is not of the promised size
    remarks: NotRequired[dict[str, str]]  # id -> why it was left out, or what is wrong with its size


class MadeRecord(TypedDict):
    """What an output was made of."""

    input_sha256: str
    sha256: NotRequired[str]  # of the output, once the run that made it has ended


class MethodFile(TypedDict, total=False):
    """method.json. A file of one's own may have any of these keys."""

    method: str  # the name with its settings: seesr[steps=20]
    repository: str
    commit: str | None  # of the checkout; None outside git
    at_pinned_commit: bool  # whether the checkout is what the adapter was written for, unchanged
    licence_class: str  # of its repository: commercial, noncommercial or unclear
    settings: dict[str, str]
    packages: str | None  # what was installed: a hash, or versions
    weights: str  # sha256, of our own models
    contaminated: list[str]  # suites that the weights were validated on
    runs: dict[str, list[RunRecord]]  # by seed
    made: dict[str, dict[str, MadeRecord]]  # by seed and id; since 0.5
    seconds_per_image: float | None  # over all runs
    peak_gpu_mb: int | None


Number = Annotated[float, Field(strict=True, ge=0)]


class _ShownRun(FileModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    remarks: dict[Text, Text] = Field(default_factory=dict)


class _ShownMade(FileModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    input_sha256: Text
    sha256: Text = ""


class _Shown(FileModel):
    """The keys of method.json that are read again: what they must be, in a file of one's own too."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    method: Text = ""
    commit: Text | None = None
    licence_class: Text = ""
    settings: dict[Text, Text] = Field(default_factory=dict)
    contaminated: tuple[Text, ...] = ()
    runs: dict[Text, tuple[_ShownRun, ...]] = Field(default_factory=dict)
    made: dict[Text, dict[Text, _ShownMade]] = Field(default_factory=dict)
    seconds_per_image: Number | None = None
    peak_gpu_mb: Number | None = None


def size_remark(about: MethodFile, seed: str, id_: str) -> str | None:
    """What the last run of a seed said of the output of an id, None where it said nothing. The one run of a method
    without seed folders may have had any seed."""
    by_seed = about.get("runs", {})
    runs = next(iter(by_seed.values())) if len(by_seed) == 1 else by_seed.get(seed, [])
    return next((run["remarks"][id_] for run in reversed(runs) if id_ in run.get("remarks", {})), None)


def read_method(folder: Path) -> MethodFile | None:
    """The method.json of a folder of outputs, None where it has none. InputError for one that cannot be read, or that
    has another type of value at a key that is shown."""
    file = folder / METHOD_FILE
    if not file.exists():
        return None
    try:
        about: MethodFile = read_json(file)
        validate(_Shown, about, file)
    except ConfigError as error:
        raise InputError(str(error)) from None
    return about
