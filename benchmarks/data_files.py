"""Data files that a user edits (adapters, suites, profiles): read, checked, and refused in one sentence.

Unknown keys, wrong types and impossible values are a ConfigError that names the file and the key. Text is never taken
for a list or a number: `output_size = "x4"` is refused, not split into letters.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.regular import open_regular, read_whole

Text = Annotated[str, StringConstraints(strict=True)]
Word = Annotated[str, StringConstraints(strict=True, min_length=1)]
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
FromZero = Annotated[int, Field(strict=True, ge=0)]
Size = tuple[Count, Count]  # width, height


class FileModel(BaseModel):
    """The content of a data file: frozen, and without keys that are not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RepositoryFile(FileModel):
    """What the file of a method or a metric says of the repository that it runs. `licence_class`: what the licence file
    of the repository allows; base models and weights have licences of their own."""

    about: Text
    repository: Word
    commit: Word
    licence: Text
    licence_class: Literal["commercial", "noncommercial", "unclear"] = "unclear"
    environment: tuple[Text, ...] = ()
    weights: Text
    command: Word
    gotchas: tuple[Text, ...] = ()


WORDS = {"a valid tuple": "a list", "Tuple": "List", " after validation": "", "a valid dictionary": "a table"}
AnyFile = TypeVar("AnyFile", bound=FileModel)


def read_toml(file: Path) -> dict[str, Any]:
    """The keys of a TOML file. ConfigError where it cannot be read, or is no TOML; InputError for a pipe."""
    try:
        return tomllib.loads(_read(file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def read_json(file: Path) -> Any:
    """The content of a JSON file. ConfigError where it cannot be read, or is no JSON; InputError for a pipe."""
    try:
        return parse_json(_read(file))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {error}") from None


def validate(kind: type[AnyFile], content: Any, file: Path, below: str = "") -> AnyFile:
    """`content` as a model; `below`: the key of the file at which it stands. ConfigError names file and key."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (*([below] if below else []), *first["loc"]))
        raise ConfigError(_sentence(kind, str(file), key, first)) from None


def _read(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            return read_whole(opened, str(file)).decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None


def _sentence(kind: type[FileModel], file: str, key: str, error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        near = (
            difflib.get_close_matches(str(error["loc"][-1]), kind.model_fields, n=1) if len(error["loc"]) == 1 else []
        )
        return f"{file} has the unknown key {key}" + (f": did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return f"{file} lacks the key {key}"
    message = error["msg"].removeprefix("Value error, ").replace("\n", " ")
    for python, toml in WORDS.items():
        message = message.replace(python, toml)
    message = f"{message[0].lower()}{message[1:]}".partition(" or instance of")[0]
    given = error["input"]
    shown = f" (it is {given!r:.60})" if isinstance(given, str | int | float) and key else ""
    return f"{file}: {key}: {message}{shown}" if key else f"{file}: {message}"
