"""The short options of a selection as settings: of commands, and of calls in Python. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypedDict

from lucidflux_data.errors import ConfigError, suggest

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None


class SelectOptions(TypedDict, total=False):
    """What `lucidflux-data select` takes by name, as Python has it. None takes back what the run has."""

    iqa: str | None  # the metric of the cut
    top_fraction: float | str
    top_k: int
    min_side: int  # pixels
    where: str | None
    carry: Paths  # names of columns
    join: Paths  # Parquet files
    opt_out: Paths  # lists
    forbid: Paths  # suites, fingerprint files, folders
    near_duplicates: int | None  # bits
    where_tile: str | None
    min_good_tiles: float


LISTS = ("carry", "join", "opt_out", "forbid")


def cut_settings(
    set_: list[str] | None,
    iqa: str | None,
    top_fraction: str | None,
    top_k: int | str | None,
    min_side: int | str | None,
) -> list[str]:
    """The short options as settings; they stand after --set, so they win."""
    settings = list(set_ or [])
    if iqa is not None:
        settings.append(f"iqa.metric={iqa}")
    if top_fraction is not None and top_k is not None:
        raise ConfigError("--top-fraction and --top-k exclude each other")
    if top_fraction is not None:
        settings += ["cut.top_k=none", f"cut.top_fraction={top_fraction}"]
    if top_k is not None:
        settings += ["cut.top_fraction=none", f"cut.top_k={top_k}"]
    if min_side is not None:
        settings.append(f"rules.min_side={min_side}")
    return settings


def select_settings(
    forbid: list[str] | None,
    join: list[str] | None,
    where: str | None,
    carry: str | None,
    opt_out: list[str] | None,
    near_duplicates: str | None,
    forbid_missing: str | None = None,
    where_tile: str | None = None,
    min_good_tiles: float | str | None = None,
) -> list[str]:
    """What else decides, as settings of the `select` section. An empty text, or `none`, takes back what a run has."""
    lists = {"forbid": forbid, "join": join, "opt_out": opt_out, "carry": [carry] if carry is not None else None}
    settings = [f"select.{name}={_listed(name, values)}" for name, values in lists.items() if values]
    single = {"where": where, "near_duplicates": near_duplicates, "forbid_missing": forbid_missing}
    single |= {"where_tile": where_tile, "min_good_tiles": None if min_good_tiles is None else str(min_good_tiles)}
    given = {name: value.strip() or "none" for name, value in single.items() if value is not None}
    return settings + [f"select.{name}={value}" for name, value in given.items()]


def _listed(name: str, values: list[str]) -> str:
    """The values by commas; nothing where the only one is empty or `none`."""
    clears = [value for value in values if value.strip().lower() in ("", "none")]
    if clears and len(values) > 1:
        option = name.replace("_", "-")
        raise ConfigError(f"--{option} none takes back what the run has: name nothing beside it")
    return "" if clears else ",".join(values)


def as_settings(given: str | Iterable[str] | Mapping[str, object]) -> list[str]:
    """Settings as `name=value` texts: of one text, of some, or of a dict of names, or of sections, to values."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Mapping):
        return list(given)
    found = []
    for name, value in given.items():
        if isinstance(value, Mapping):
            found += [f"{name}.{inner}" for inner in as_settings(value)]
        else:
            found.append(f"{name}={_joined(value) if isinstance(value, list | tuple) else value}")
    return found


def option_settings(options: Mapping[str, object]) -> list[str]:
    """SelectOptions as settings. ConfigError for a name that is none of them, with near ones, for `top_fraction` beside
    `top_k`, and for a value that is no list of names where one is asked for."""
    known = tuple(SelectOptions.__annotations__)
    for name in options:
        if name not in known:
            raise ConfigError(f"select has no option {name!r}: {suggest(name, known, len(known))}")
    texts = {name: "none" if value is None else str(value) for name, value in options.items() if name not in LISTS}
    cut = [texts.get(name) for name in ("iqa", "top_fraction", "top_k", "min_side")]
    settings = cut_settings(None, *cut) + select_settings(
        None,
        None,
        texts.get("where"),
        None,
        None,
        texts.get("near_duplicates"),
        None,
        texts.get("where_tile"),
        texts.get("min_good_tiles"),
    )
    return settings + [f"select.{name}={_names(name, options[name])}" for name in LISTS if name in options]


def _names(option: str, given: object) -> str:
    """Names, or one of them, by commas."""
    if given is None or (option == "carry" and isinstance(given, str)):
        return str(given or "")
    one = isinstance(given, str | os.PathLike)
    some = [given] if one else list(given) if isinstance(given, Iterable) else [None]
    if not all(isinstance(each, str | os.PathLike) for each in some):
        raise ConfigError(f"{option} is a name, or a list of names, not {given!r}")
    return _joined(some)


def _joined(values: Iterable[object]) -> str:
    """By commas, as config.split_list takes them apart: a name with a comma in it stands in quotes."""
    texts = [os.fspath(value) if isinstance(value, os.PathLike) else str(value) for value in values]
    quoted = ['"{}"'.format(text.replace('"', '""')) if set(text) & set(',"\n\r') else text for text in texts]
    return ",".join(quoted)
