"""run.json of strangers: whatever stands in the place of a value, it is read as it is or refused in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from lucidflux_data.errors import InputError, LucidFluxError
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.config import make_pairs_config
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from lucidflux_data.storage.formats import canonical_json, fits_type, parse_json
from lucidflux_data.storage.run_folder import RUN_FILE, read_about, seal

ODD = [None, [], {}, "\x1b[31m\u202e", 2**63, True, {"a": None}, ["x", 3]]


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = dict(SETTINGS)
    yield
    SETTINGS.update(before)
    configure({})


def filter_run() -> Mapping[str, Any]:
    listed: runs.Listed = {"sources": ["file:///photos"], "limit": None, "seed": None, "total": 3, "candidates": 2,
                           "ignored": 1, "ignored_by": {"other": 1}, "damaged_tars": [], "warnings": ["x"],
                           "allowed": []}  # fmt: skip
    compared: Any = {"suite": {"sha256": "a" * 64, "images": 1, "of": 1}}
    config = make_config(settings=["select.forbid=suite"])
    return runs.make_run(config, listed, "lucidflux", ["file:///other"], [], {"/list.txt": "b" * 64}, compared)


def run_of_pairs() -> Mapping[str, Any]:
    run = pairs_run.make_run(make_pairs_config("realesrgan-x4"), "pairs", "cv2", ["file:///photos"], None)
    return {**run, "listed": {"total": 1, "ignored": 0, "ignored_by": {}, "warnings": []}}


KINDS: dict[str, tuple[Callable[[], Mapping[str, Any]], Callable[[Folder], Any]]] = {
    "filter": (filter_run, runs.read_run),
    "pairs": (run_of_pairs, pairs_run.read),
}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def put(value: Any, at: tuple[Any, ...], odd: Any) -> Any:
    changed = copy.deepcopy(value)
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    inside[at[-1]] = odd
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_every_odd_value_is_refused_or_is_one_that_a_version_writes(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    about, told, folder = parse_json(canonical_json(make())), [], Folder(tmp_path)
    (tmp_path / RUN_FILE).write_bytes(seal(about))
    assert read(folder) == about
    for at in places(about):
        for odd in ODD:
            (tmp_path / RUN_FILE).write_bytes(seal(put(about, at, odd)))
            try:
                read(folder)
            except LucidFluxError as error:
                told.append(str(error))
    assert len(told) > 300
    assert not any("\n" in sentence for sentence in told)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_is_not_there_is_refused_and_a_further_one_is_read(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    about = parse_json(canonical_json(make()))
    for key in ("config", "digests", "sources" if kind == "pairs" else "inputs"):
        (tmp_path / RUN_FILE).write_bytes(seal({name: value for name, value in about.items() if name != key}))
        with pytest.raises(InputError, match="has values that this version does not write"):
            read(Folder(tmp_path))
    (tmp_path / RUN_FILE).write_bytes(seal({**about, "of_a_later_version": 1}))
    assert read_about(Folder(tmp_path)) == {**about, "of_a_later_version": 1}
    assert read(Folder(tmp_path))


class Inner(TypedDict):
    number: int


class Outer(TypedDict):
    rows: list[Inner]
    names: NotRequired[dict[str, str | None]]


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"rows": []}, True),
        ({"rows": [{"number": 1, "more": 2}], "names": {"a": None, "b": "c"}}, True),
        ({}, False),
        ([], False),
        ({"rows": {}}, False),
        ({"rows": [{"number": True}]}, False),
        ({"rows": [{"number": 1.0}]}, False),
        ({"rows": [{}]}, False),
        ({"rows": [], "names": {"a": 1}}, False),
        ({"rows": [], "names": None}, False),
    ],
)
def test_forms(value: object, fits: bool) -> None:
    assert fits_type(value, Outer) is fits
