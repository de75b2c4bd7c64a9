"""How settings are read: sections of any command, from presets, files and overrides.

    defaults < preset < --config FILE (TOML) < --set a.b=v      unknown keys are errors

Each room has its own sections in its `config.py`, which imports pydantic and nothing heavy.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from lucidflux_data.errors import ConfigError, suggest


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


SINCE = "since"
SILENT = "silent"


def since(version: str, silent: bool = False) -> dict[str, JsonValue]:
    """For `Field(..., json_schema_extra=since("0.2.0"))` of every setting that 0.1.0 did not have: at its default it is
    in no digest, so that a folder made before the setting existed is still the same job. `silent`: nor is it in
    run.json then, whose bytes are those of before."""
    return {SINCE: version, **({SILENT: True} if silent else {})}


def written_values(section: BaseModel) -> dict[str, Any]:
    """The settings of a section as run.json has them: all but silent ones that are at their default."""
    return _values(section, SILENT, "python")


def deciding_values(section: BaseModel) -> dict[str, Any]:
    """The settings of a section that go into a digest: all that the first version had, and later ones that are not at
    their default."""
    return _values(section, SINCE, "json")


def _values(section: BaseModel, mark: str, mode: Literal["python", "json"]) -> dict[str, Any]:
    """All settings of a section but those with this mark that are at their default."""
    values = section.model_dump(mode=mode)
    for name, field in type(section).model_fields.items():
        value, extra = getattr(section, name), field.json_schema_extra
        if isinstance(value, BaseModel):
            values[name] = _values(value, mark, mode)
        if isinstance(extra, dict) and mark in extra and value == field.get_default(call_default_factory=True):
            del values[name]
    return values


AnySection = TypeVar("AnySection", bound=Section)


def split_list(value: object) -> object:
    """`a, "b,c"` as (a, b,c); what is no text as it is."""
    if not isinstance(value, str):
        return value
    try:
        parts = next(csv.reader([value], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise ValueError(f"is no list of names by commas: {error}") from None
    return tuple(part.strip() for part in parts if part.strip())


def digest(content: Any) -> str:
    """sha256 (hex) of the canonical JSON of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def resolve(
    kind: type[AnySection], values: Mapping[str, object], file: str | None = None, settings: Iterable[str] = ()
) -> AnySection:
    """The config of any command: `values` < `file` (TOML) < `settings` (a.b=v), checked. Raises ConfigError."""
    if file is not None:
        values = _merged(values, _read_toml(file))
    for setting in settings:
        values = _merged(values, _parse_setting(setting))
    return _validated(kind, values)


def say_value(value: object) -> str:
    """A value of a setting as people write it: `a.txt, b.txt`, `none`, `150`."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(say_value, value)) or "none"
    return "none" if value is None else str(value)


def describe_changes(preset: str, plain: Section, config: Section) -> str:
    """The name of a preset and what `config` changes of it (`plain`)."""
    changes = [
        f"{'iqa' if name == 'iqa.metric' else name}={say_value(now)}"
        for name, (_, now) in changes_between(plain, config).items()
    ]
    return f"{preset} (modified: {', '.join(changes)})" if changes else preset


Changes = dict[str, list[object]]  # setting -> [before, now]


def changes_between(before: Section, now: Section) -> Changes:
    """What is another value now, of all settings but of how stores are spoken to and work is spread."""
    old, new = dotted(before.model_dump()), dotted(now.model_dump())
    return {
        name: [old.get(name), value]
        for name, value in new.items()
        if old.get(name) != value and name.partition(".")[0] not in ("storage", "workers")
    }


def _validated(kind: type[AnySection], values: Mapping[str, object]) -> AnySection:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"there is no setting {name}: {_suggest_setting(kind, name)}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {message[0].lower()}{message[1:]}" if name else message) from None


def setting_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting of a config as `--set` writes it: rules.min_side."""
    names = []
    for name, field in kind.model_fields.items():
        section = next((part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part)), None)
        names += setting_names(section, f"{prefix}{name}.") if section is not None else [f"{prefix}{name}"]
    return names


def _is_section(kind: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _suggest_setting(kind: type[BaseModel], name: str) -> str:
    """By the last part first: min_side is rules.min_side, whatever section it was looked for in."""
    names = setting_names(kind)
    last = name.rpartition(".")[2]
    same = [each for each in names if each.rpartition(".")[2] == last]
    if same:
        return f"did you mean {' or '.join(same[:3])}?"
    sections = dict.fromkeys(each.partition(".")[0] for each in names)
    if "." not in name and (found := difflib.get_close_matches(name, sections, n=1)):
        return f"did you mean {found[0]}?"
    section = [each for each in names if each.startswith(f"{name.partition('.')[0]}.")]
    ends = difflib.get_close_matches(last, [each.rpartition(".")[2] for each in names], n=1, cutoff=0.75)
    near = [each for each in names if ends and each.rpartition(".")[2] == ends[0]]
    return f"did you mean {' or '.join(near[:3])}?" if near else suggest(name, section or names)


def _read_toml(file: str) -> dict[str, object]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the config file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {file} is not TOML: {error}") from None


def _parse_setting(setting: str) -> dict[str, object]:
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set takes name=value, not {setting!r}")
    value: object = None if text.lower() == "none" and name != "iqa.metric" else text
    first, *inner = name.strip().split(".")
    for part in reversed(inner):
        value = {part: value}
    return {first: value}


def _merged(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            value = _merged(before, value)
        merged[name] = value
    return merged


def dotted(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        flat.update(inner)
    return flat
