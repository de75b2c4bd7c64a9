"""Adapters: how a published repository is run in an environment of its own, as data files in adapter_files/.

    suite -> inputs/{id}.<ext> -> command of the repository -> files that it wrote -> OUT/<method>/[seed-n/]{id}.<ext>

A command is a template over {python} {inputs} {outputs} {scale} {seed} {prompts} and the adapter's settings. One
without {seed} takes no seed; one with {prompts}, a folder of {id}.txt, takes prompts. `collect` is a glob below
{outputs}, `id` a pattern on the name without extension. Bytes are copied as they are.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from benchmarks.data_files import (
    Count,
    FileModel,
    Flag,
    FromZero,
    RepositoryFile,
    Size,
    Text,
    Word,
    read_toml,
    validate,
)
from benchmarks.methods.prompts import Prompts
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.storage.names import safe_file

ADAPTER_FILES = Path(__file__).with_name("adapter_files")
GIVEN = ("python", "inputs", "outputs", "scale", "seed", "prompts")


class Stage(FileModel):
    """How inputs are given to a repository. `form`: linked as they are, or written as `png` where it reads nothing else
    or the output's codec follows the input's. `min_side`: pixels; an input with a side under min_side // scale is left
    out by name, since the repository makes it larger first or fails. `multiple`: both sides of an input are multiples
    of it, else it is left out by name."""

    form: Literal["link", "png"] = "link"
    min_side: FromZero = 0
    multiple: Count = 1


class AdapterFile(RepositoryFile):
    """The keys of an adapter file. `scale`: the only one that it has; None: it takes any. `output_size` (width,
    height): what it always writes; None: each input's size times the scale. `rounds_to`: pixels; the output's sides are
    cut to multiples of it, a known cause of wrong sizes. `prompts_by_order`: images and prompts are paired by their
    places among the sorted names.
    """

    collect: Word
    gpus: FromZero = 1
    id: Word = "(?P<id>.+)"
    stage: Stage = Stage()
    scale: Count | None = None
    output_size: Size | None = None
    rounds_to: Count = 1
    prompts_by_order: Flag = False
    settings: dict[Word, Text] = Field(default_factory=dict)

    @field_validator("collect")
    @classmethod
    def _is_a_pattern_below_the_outputs(cls, pattern: str) -> str:
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise ValueError("leads out of {outputs}: it should be a pattern below it")
        try:
            any(Path(os.devnull).glob(pattern))
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"is no pattern of files: {error}") from None
        return pattern

    @field_validator("id")
    @classmethod
    def _has_a_group_named_id(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if "id" not in groups:
            raise ValueError("has no group named id, (?P<id>...)")
        return pattern

    @field_validator("settings")
    @classmethod
    def _hides_nothing_that_is_given(cls, settings: dict[str, str]) -> dict[str, str]:
        taken = [name for name in settings if name in GIVEN]
        if taken:
            raise ValueError(f"`bench infer` gives {taken[0]} itself: choose another name")
        return settings

    @field_validator("command")
    @classmethod
    def _can_be_split(cls, command: str) -> str:
        try:
            fields = [field for part in shlex.split(command) for field in Formatter().parse(part)]
        except ValueError as error:
            raise ValueError(f"is no template of a command: {error}") from None
        formatted = [name for _, name, form, conversion in fields if name is not None and (form or conversion)]
        if formatted:
            raise ValueError(f"{{{formatted[0]}}} is filled in as it is: it takes no format")
        return command

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        known = {*GIVEN, *self.settings}
        for part in shlex.split(self.command):
            for _, name, _, _ in Formatter().parse(part):
                if name is not None and name not in known:
                    raise ValueError(f"command: there is no {{{name}}}, but {', '.join(sorted(known))}")
        return self


class Adapter(AdapterFile):
    """An adapter file and its name, which is the name of the method."""

    name: str

    def argv(self, settings: Mapping[str, str], **given: object) -> list[str]:
        """The command, split as a shell would; values stay whole words."""
        values = {**settings, **{name: str(value) for name, value in given.items()}}
        return [part.format_map(values) for part in shlex.split(self.command)]

    def takes(self, name: str) -> bool:
        """Whether the command has `{name}` in it."""
        return any(field == name for part in shlex.split(self.command) for _, field, _, _ in Formatter().parse(part))

    def describe_unfit(self, width: int, height: int, scale: int) -> str | None:
        """Why the method cannot be given an input of this size in pixels, None where it can."""
        smallest, multiple = self.stage.min_side // scale, self.stage.multiple
        if min(width, height) < smallest:
            return f"the input is {width}x{height}, {self.name} is given sides of {smallest} and more"
        if width % multiple or height % multiple:
            return f"the input is {width}x{height}, {self.name} is given sides that are multiples of {multiple}"
        return None

    def tell_size(self, made: tuple[int, int], expected: tuple[int, int]) -> str | None:
        """What is wrong with the size (width, height) of an output, and its known cause; None where it is right."""
        if made == expected:
            return None
        wrong_size = f"the output is {made[0]}x{made[1]}, not {expected[0]}x{expected[1]}"
        cut = tuple(side - side % self.rounds_to for side in expected)
        return f"{wrong_size}: {self.name} cuts sides to multiples of {self.rounds_to}" if made == cut else wrong_size

    def script(self) -> str | None:
        """The first Python file of the command, below the checkout; None where it is started in another way."""
        return next((part for part in shlex.split(self.command) if part.endswith(".py")), None)

    def found(self, outputs: Path) -> dict[str, Path]:
        """id -> file of everything that was written where `collect` says; the last of two files of one id wins."""
        files = {}
        for path in sorted(outputs.glob(self.collect)):
            match = re.fullmatch(self.id, path.stem)
            if match and path.suffix.lower() in IMAGE_EXTENSIONS:
                files[match["id"]] = path
        return files


def adapter_names() -> list[str]:
    return sorted(path.stem for path in ADAPTER_FILES.glob("*.toml"))


def load_adapter(name: str, others: tuple[str, ...] = ()) -> Adapter:
    """An adapter by name, or by the path of a TOML file of one's own. ConfigError where it is unknown or wrong.
    `others`: names that were perhaps meant, too."""
    file = Path(name) if name.endswith(".toml") else ADAPTER_FILES / f"{name}.toml"
    if not file.is_file():
        raise ConfigError(f"there is no method {name!r}: {suggest(name, [*adapter_names(), *others])}")
    content = validate(AdapterFile, read_toml(file), file)
    return Adapter(name=file.stem, **dict(content))


def check_scale(adapter: Adapter, scale: int) -> None:
    """ConfigError for a scale that the method does not have."""
    if adapter.scale not in (None, scale):
        raise ConfigError(f"{adapter.name} enlarges by {adapter.scale} and by nothing else: not by {scale}")


def resolve(adapter: Adapter, settings: list[str], prompts: Prompts | None = None) -> tuple[dict[str, str], str]:
    """(all settings, method id); the id carries the kind of prompts and the settings that differ from the adapter's:
    `seesr[steps=20]`, `dit4sr[prompts=file]`."""
    values = dict(adapter.settings)
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals or name not in values:
            raise ConfigError(f"--set {item}: {adapter.name} has the settings {', '.join(values) or 'none'}")
        values[name] = value
    changed = [f"{name}={value}" for name, value in values.items() if value != adapter.settings[name]]
    if prompts is not None:
        changed.insert(0, f"prompts={prompts.mode}")
        values.update(prompts.settings)
    method = f"{adapter.name}[{','.join(changed)}]".replace("/", "-") if changed else adapter.name
    return values, safe_file(method)
