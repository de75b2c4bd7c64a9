"""Suites: which images a method is given, what its outputs must look like, and where the references are.

A suite is a data file in suite_files/; `prepare` puts its images below the suites folder, checked and fingerprinted:

    SUITES/<name>/lq/<id>.<ext>  gt/<id>.<ext>  suite.json (scale, ids, sha256, sizes, one fingerprint over all)
                  prompts/<id>.txt  prompts/prompts.toml, where it carries prompts (prompts.py)

A suite that is not prepared can still score outputs by the metrics that need no suite image, by the ids of its data
file. Folders given as --inputs and --gt make an ad hoc suite, which is unpinned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Self, TypedDict

from pydantic import Field, StringConstraints, field_validator, model_validator

from benchmarks.data_files import Count, FileModel, Flag, FromZero, Size, Text, Word, read_json, read_toml, validate
from benchmarks.suites.ids import id_of, suggest_pattern
from benchmarks.suites.prompts import PromptRecord
from lucidflux_data.degradation.config import PRESETS
from lucidflux_data.errors import ConfigError, InputError, VerificationError, suggest
from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.iqa.pins import file_sha256
from lucidflux_data.storage.cache import own_cache
from lucidflux_data.storage.names import check_file_name
from lucidflux_data.storage.regular import is_special

SUITE_FILES = Path(__file__).with_name("suite_files")
AD_HOC = "ad-hoc"


class Pin(FileModel):
    """What is known of one input of an archive: hex sha256 of the file, width and height in pixels."""

    sha256: Annotated[Word, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    width: Count
    height: Count


class Synthesis(FileModel):
    """How a suite is made here: `preset`, `seed`, `size` in pixels of the references, `photos` of the package."""

    preset: Word
    seed: FromZero
    size: Count
    photos: Annotated[list[Word], Field(min_length=1)] | None = None

    @field_validator("preset")
    @classmethod
    def _is_known(cls, preset: str) -> str:
        if preset not in PRESETS:
            raise ValueError(f"there is no preset of this name: {', '.join(PRESETS)}")
        return preset


class ImageRecord(TypedDict):
    """One image of a prepared suite."""

    file: str  # its name below the folder of its role
    sha256: str
    width: int  # pixels
    height: int


class SuiteRecord(TypedDict):
    """suite.json, which `prepare` leaves beside the images of a suite."""

    name: str
    version: str
    scale: int | None
    images: dict[str, dict[str, ImageRecord]]  # id -> role (lq, gt) -> image
    fingerprint: str  # sha256 over the sorted lines of id, role and sha256
    flagged: NotRequired[dict[str, str]]  # id -> rule of the filter that its reference breaks; since 0.5
    made_with: NotRequired[dict[str, str]]  # versions of the libraries, of a suite that is made here


class SuiteFile(FileModel):
    """The keys of a suite file. `ids`: a range, {001..250}; `pins`: the JSON file of hashes beside it; `layout`: role
    (lq, gt) -> places in the archive, the first that is there."""

    about: Text
    version: Word
    scale: Count
    count: Count
    gt: Flag
    ids: Word | None = None
    ids_verified: Flag | None = None
    pins: Annotated[Word, StringConstraints(pattern=r"^[\w-]+\.json$")] | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    crop: Text = "none"
    licence: Text = ""
    get: Text = ""
    published: Word | None = None
    same_protocol: Flag = False
    layout: dict[Literal["lq", "gt"], Annotated[tuple[Word, ...], Field(min_length=1)]] = Field(default_factory=dict)
    synthesis: Synthesis | None = None
    prompts: PromptRecord | None = None

    @field_validator("version", mode="before")
    @classmethod
    def _is_a_name(cls, version: object) -> object:
        return str(version) if type(version) is int else version

    @field_validator("ids")
    @classmethod
    def _is_a_range(cls, pattern: str | None) -> str | None:
        try:
            return pattern if pattern is None or expand(pattern) else None
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ids and len(expand(self.ids)) != self.count:
            raise ValueError(f"count: {self.count} is not the number of ids, {len(expand(self.ids))}")
        if self.input_size and self.output_size:
            width, height = (side * self.scale for side in self.input_size)
            if self.output_size != (width, height):
                raise ValueError(f"output_size: input_size times the scale is {width}x{height}")
        if self.layout and set(self.layout) != ({"lq", "gt"} if self.gt else {"lq"}):
            raise ValueError(f"layout: it should have lq{' and gt' if self.gt else ' alone'}, as gt says")
        return self


@dataclass(frozen=True)
class Suite:
    """`ids` None: not known before the suite is prepared. `lq`, `gt`: id -> file, empty where they are not at
    hand. Sizes are (width, height); `output_size` None: each input's size times `scale`."""

    name: str
    version: str
    about: str
    scale: int | None
    count: int
    has_gt: bool
    ids: tuple[str, ...] | None
    ids_verified: bool
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    crop: str = "none"
    licence: str = ""
    get: str = ""
    published: str | None = None
    same_protocol: bool = False
    layout: dict[str, list[str]] = field(default_factory=dict)
    synthesis: Synthesis | None = None
    pins: dict[str, Pin] = field(default_factory=dict)
    fingerprint: str | None = None
    made_with: dict[str, str] | None = None
    lq: dict[str, Path] = field(default_factory=dict)
    gt: dict[str, Path] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)  # lq and gt -> id -> sha256, where it is prepared
    flagged: dict[str, str] = field(default_factory=dict)  # id -> rule of the filter that its reference breaks
    prompt_record: PromptRecord | None = None
    prompts: Path | None = None  # the folder of its prompts, where it is prepared with them

    @property
    def pinned(self) -> bool:
        """Whether the images that are compared with are known by hash."""
        return self.fingerprint is not None

    def label(self) -> str:
        return f"{self.name}:{self.version}" if self.name != AD_HOC else AD_HOC


def suites_folder(given: Path | None = None) -> Path:
    """--suites-dir, else LUCIDFLUX_SUITES, else the user's cache."""
    if given is not None:
        return given
    if os.environ.get("LUCIDFLUX_SUITES"):
        return Path(os.environ["LUCIDFLUX_SUITES"])
    return own_cache() / "suites"


def suite_names() -> list[str]:
    return sorted(path.stem for path in SUITE_FILES.glob("*.toml"))


def load_suite(name: str, folder: Path | None) -> Suite:
    """A suite by name, with the images that `prepare` has put below `folder` (None: without). ConfigError else."""
    file = SUITE_FILES / f"{name}.toml"
    if not re.fullmatch(r"[\w-]+", name) or not file.exists():
        raise ConfigError(f"there is no suite {name!r}: {suggest(name, suite_names())}")
    content = validate(SuiteFile, read_toml(file), file)
    pins = _read_pins(SUITE_FILES / content.pins, content.count) if content.pins else {}
    suite = Suite(
        **content.model_dump(
            exclude={"gt", "version", "ids", "ids_verified", "pins", "layout", "synthesis", "prompts"}
        ),
        name=name,
        version=content.version,
        has_gt=content.gt,
        ids=tuple(pins) if pins else expand(content.ids) if content.ids else None,
        ids_verified=bool(pins) if content.ids_verified is None else content.ids_verified,
        pins=pins,
        layout={role: list(places) for role, places in content.layout.items()},
        synthesis=content.synthesis,
        prompt_record=content.prompts,
    )
    return _with_images(suite, folder / name) if folder is not None else suite


def _read_pins(file: Path, count: int) -> dict[str, Pin]:
    """id -> what is known of each input, as the archive is known to hold them. ConfigError else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is no table of ids")
    pins = {id_: validate(Pin, row, file, below=id_) for id_, row in content.items()}
    if len(pins) != count:
        raise ConfigError(f"{file} pins {len(pins)} images, the suite has {count}")
    return pins


def expand(pattern: str) -> tuple[str, ...]:
    """`{001..250}` as its 250 ids; leading zeros set the width."""
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern)
    if match is None:
        raise ConfigError(f"{pattern} is not a range of ids")
    before, first, last, after = match.groups()
    return tuple(f"{before}{number:0{len(first)}d}{after}" for number in range(int(first), int(last) + 1))


def _with_images(suite: Suite, folder: Path) -> Suite:
    """The suite with what `prepare` has left in `folder`; InputError when files have gone since."""
    if not (folder / "suite.json").exists():
        return suite
    prepared: SuiteRecord = read_json(folder / "suite.json")
    try:
        return _of_record(suite, prepared, folder)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{folder}/suite.json is damaged or of an older version: prepare {suite.name} again") from None


def _of_record(suite: Suite, prepared: SuiteRecord, folder: Path) -> Suite:
    """As `_with_images`; errors of Python's own for a record of another form."""
    if prepared["version"] != suite.version:
        raise InputError(
            f"{folder} holds version {prepared['version']} of {suite.name}, this is {suite.version}: prepare it again"
        )
    places: dict[str, dict[str, Path]] = {"lq": {}, "gt": {}}
    for id_, roles in prepared["images"].items():
        for role, image in roles.items():
            for name in (id_, role, image["file"]):
                check_file_name(name, folder)
            path = folder / role / image["file"]
            if not path.is_file():
                raise InputError(f"{path} is gone: prepare {suite.name} again")
            places[role][id_] = path
    return replace(
        suite,
        ids=tuple(prepared["images"]),
        ids_verified=True,
        pins={id_: _pin(roles["lq"]) for id_, roles in prepared["images"].items()},
        fingerprint=prepared["fingerprint"],
        made_with=prepared.get("made_with"),
        flagged=dict(prepared.get("flagged", {})),
        lq=places["lq"],
        gt=places["gt"],
        hashes={
            role: {id_: roles[role]["sha256"] for id_, roles in prepared["images"].items() if role in roles}
            for role in places
        },
        prompts=folder / "prompts" if (folder / "prompts").is_dir() else None,
    )


def check_images(suite: Suite, ids: Iterable[str], roles: Iterable[str] = ("lq", "gt")) -> None:
    """VerificationError for an image of a prepared suite that is another than was prepared: its pin would be untrue."""
    for role in roles:
        known, places = suite.hashes.get(role, {}), {"lq": suite.lq, "gt": suite.gt}[role]
        for id_ in ids:
            if id_ in known and file_sha256(places[id_]) != known[id_]:
                raise VerificationError(f"{places[id_]} is another image than was prepared: prepare {suite.name} again")


def _pin(image: ImageRecord) -> Pin:
    return Pin(sha256=image["sha256"], width=image["width"], height=image["height"])


def ad_hoc_suite(
    inputs: Path | None, gt: Path | None, ids_of_outputs: set[str], pattern: re.Pattern[str] | None = None
) -> Suite:
    """A suite of folders: ids are those of --gt, else of --inputs, else all that any method has or the user names.

    Raises InputError where --inputs and --gt have different ids.
    """
    lq = images_by_id(inputs, pattern) if inputs else {}
    references = images_by_id(gt, pattern) if gt else {}
    if lq and references and set(lq) != set(references):
        only = sorted(set(lq) ^ set(references))
        hint = suggest_pattern(set(lq) - set(references), references) or suggest_pattern(set(references) - set(lq), lq)
        raise InputError(f"--inputs and --gt differ: {only[0]} is in one of them only ({len(only)} such ids){hint}")
    ids = tuple(sorted(references or lq or ids_of_outputs))
    return Suite(
        name=AD_HOC,
        version="unpinned",
        about="folders given on the command line",
        scale=None,
        count=len(ids),
        has_gt=bool(references),
        ids=ids,
        ids_verified=True,
        lq=lq,
        gt=references,
    )


def images_by_id(folder: Path, pattern: re.Pattern[str] | None = None) -> dict[str, Path]:
    """Image files directly in a folder by id (`id_of`). InputError for two files of one id, for none."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_EXTENSIONS or path.name.startswith(".") or is_special(str(path)):
            continue
        id_ = id_of(path, pattern)
        if id_ in found:
            raise InputError(f"{folder} has two images of id {id_}: {found[id_].name} and {path.name}")
        found[id_] = path
    if not found:
        raise InputError(f"{folder} holds no images")
    return found


def with_folders(
    suite: Suite,
    inputs: Path | None,
    gt: Path | None,
    partial: bool = False,
    named: tuple[str, ...] | None = None,
    pattern: re.Pattern[str] | None = None,
) -> Suite:
    """The suite with images from folders: of all its ids, of the `named` ones, or, `partial`, of some. InputError for
    other ids, ConfigError where it is prepared."""
    if inputs is None and gt is None:
        return suite
    if suite.pinned:
        raise ConfigError(f"{suite.name} is prepared: --inputs and --gt would replace checked images by others")
    places = {role: images_by_id(folder, pattern) if folder else {} for role, folder in (("lq", inputs), ("gt", gt))}
    ids = suite.ids or tuple(sorted(places["gt"] or places["lq"]))
    for option, images in zip(("--inputs", "--gt"), places.values(), strict=True):
        extra, missing = sorted(set(images) - set(ids)), sorted(set(named or ids) - set(images)) if images else []
        if extra:
            hint = suggest_pattern(extra, set(ids))
            raise InputError(f"{option} has {extra[0]}, which is no image of {suite.name} ({len(extra)} such){hint}")
        if missing and not partial:
            raise InputError(
                f"{option} lacks {missing[0]} ({len(missing)} of {len(named or ids)}); --allow-partial takes a part"
            )
    return replace(suite, ids=ids, lq=places["lq"], gt=places["gt"])
