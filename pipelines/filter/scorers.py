"""Scorers, the ready ones and users' own, as units of work."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ConfigError, LucidFluxError, VerificationError
from lucidflux_data.images import ImageError
from lucidflux_data.selection.columns import OWN, TAKEN
from lucidflux_data.selection.pool import Pool
from lucidflux_data.storage.formats import checked_bytes, make_portable
from lucidflux_model.embedding.known import DIGITS, READY, is_ready, ready_name
from pipelines.execution.counting import count_done
from pipelines.execution.worker import File, Unit
from pipelines.filter.rows import Columns, MeasureRow
from pipelines.filter.score import decode_rows

SCORER_BATCH = 16  # images that a user's function is given at a time
KINDS = {bool: "true or false", int: "numbers", float: "numbers", str: "text"}
NAMES_TAKEN = (*OWN, *TAKEN)


class ScorerUnit:
    """scores/<scorer>: the columns of a scorer, which is called with lists of uint8 HxWx3 RGB images. `device`: of a
    ready one."""

    def __init__(
        self, limits: DecodeConfig, spec: str, folder: str, decode_threads: int = 0, device: str = "cpu"
    ) -> None:
        self.limits, self.spec, self.folder, self.decode_threads = limits, spec, folder, decode_threads
        self.device, self.name = device, scorer_name(spec)
        self._function: Any = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_function": None}

    def __call__(self, unit: Unit[list[MeasureRow]]) -> Iterator[File]:
        if self._function is None:
            if scorer_name(self.spec) != self.name:
                raise VerificationError(f"{self.spec} has other weights on this machine than where the command began")
            self._function = load_scorer(self.spec, self.folder, self.device)
        rows = [row["known"] for row in unit.payload if row["known"] is not None]
        todo = [row for row in unit.payload if row["known"] is None]
        pixels = decode_rows(todo, self.limits, self.decode_threads)
        for start in range(0, len(todo), SCORER_BATCH):
            batch = todo[start : start + SCORER_BATCH]
            rows += self._batch(batch, list(islice(pixels, len(batch))))
            count_done(len(batch))
        order = {row["uri"]: number for number, row in enumerate(unit.payload)}
        rows.sort(key=lambda row: order[str(row["uri"])])
        yield f"scores/{self.name}/{unit.name}.parquet", checked_bytes(_table(rows, self.spec))

    def _batch(self, rows: list[MeasureRow], pixels: list[np.ndarray | ImageError]) -> list[Columns]:
        records: list[Columns] = []
        images: list[np.ndarray] = []
        for row, image in zip(rows, pixels, strict=True):
            reason = image.reason if isinstance(image, ImageError) else None
            records.append({"uri": row["uri"], "key": row["key"], "reason": reason})
            images += [] if isinstance(image, ImageError) else [image]
        good = [record for record in records if record["reason"] is None]
        for name, values in _called(self._function, images, self.spec).items():
            for record, value in zip(good, values, strict=True):
                record[name] = value
        return records


def _table(rows: list[Columns], spec: str) -> pa.Table:
    """The rows of a unit, each column of one kind. ConfigError where the function mixes them."""
    names = sorted({name for row in rows for name in row} - {"uri", "key", "reason"})
    columns: dict[str, pa.Array] = {name: pa.array([row[name] for row in rows], pa.string()) for name in ("uri", "key")}
    for name in names:
        values = [row.get(name) for row in rows]
        vector = next((value for value in values if isinstance(value, (np.ndarray, list))), None)
        if isinstance(vector, (np.ndarray, list)):
            columns[name] = _vector_column(name, values, len(vector), spec)
            continue
        kinds = sorted({KINDS.get(type(value), type(value).__name__) for value in values if value is not None})
        if len(kinds) > 1:
            raise ConfigError(f"{spec} returned {' and '.join(kinds)} in {name!r}: a column has one kind")
        if any(isinstance(value, float) for value in values):
            values = [value if value is None else float(value) for value in values]
        columns[name] = pa.array(values)
    columns["reason"] = pa.array([row["reason"] for row in rows])
    return pa.table(columns)


def _vector_column(name: str, values: list[Any], size: int, spec: str) -> pa.Array:
    """float16 vectors; null where there is none."""
    there = [value for value in values if value is not None]
    if any(not isinstance(value, (np.ndarray, list)) or len(value) != size for value in there):
        raise ConfigError(f"{spec} returned vectors of several sizes, or other things beside them, in {name!r}")
    flat = np.zeros((len(values), size), np.float16)
    for row, value in enumerate(values):
        if value is not None:
            flat[row] = value
    missing = pa.array([value is None for value in values])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), size, mask=missing)


def _checked(columns: Any, count: int, spec: str) -> dict[str, list[Any]]:
    """The columns as Python values. ConfigError where the function does not keep its side."""
    if not isinstance(columns, dict):
        raise ConfigError(f"{spec} returned {type(columns).__name__}: a dict of columns is asked for")
    checked = {}
    for name, values in columns.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in NAMES_TAKEN:
            raise ConfigError(
                f"{spec} returned a column named {name!r}: letters, digits and _ only, and none that the ledger has "
                f"({', '.join(NAMES_TAKEN)})"
            )
        vectors = _vectors(name, values, count, spec)
        if vectors is not None:
            checked[name] = vectors
            continue
        items = _items(values)
        if items is None:
            raise ConfigError(f"{spec} returned {type(values).__name__} for {name!r}: a list or an array is asked for")
        if len(items) != count:
            raise ConfigError(f"{spec} returned {len(items)} values of {name!r} for {count} images")
        for item in items:
            if item is not None and type(item) not in KINDS:
                raise ConfigError(
                    f"{spec} returned a {type(item).__name__} in {name!r}: a score is a number, true or false, or text"
                )
        checked[name] = items
    return checked


def _vectors(name: str, values: Any, count: int, spec: str) -> list[np.ndarray] | None:
    """The rows of an array, or of a list of arrays, as float16 vectors; None where they are no vectors. ConfigError for
    vectors of several sizes, and for numbers that float16 does not hold."""
    rows = list(values) if isinstance(values, (list, tuple)) or getattr(values, "ndim", 0) == 2 else []
    given = [row for row in rows if row is not None]
    if not given or any(getattr(row, "ndim", None) != 1 for row in given):
        return None
    if len({len(row) for row in given}) != 1 or len(rows) != count:
        raise ConfigError(f"{spec} returned vectors of several sizes, or not {count} of them, in {name!r}")
    with np.errstate(over="ignore"):  # told below
        found = [None if row is None else np.asarray(row).astype(np.float16) for row in rows]
    if any(row is not None and not np.isfinite(row).all() for row in found):
        raise ConfigError(f"{spec} returned a vector in {name!r} with a number that is not finite in 16 bits")
    return found  # type: ignore[return-value]


def _items(values: Any) -> list[Any] | None:
    """The values of a column as Python's own, not-a-number as None; None where it is no list and no array."""
    if hasattr(values, "tolist"):
        values = values.tolist()  # of an array without dimensions a single value
    if isinstance(values, (str, bytes, Mapping, Set)) or not isinstance(values, Iterable):
        return None
    items = [item.item() if getattr(item, "ndim", None) == 0 else item for item in values]
    return [make_portable(item) if type(item) in KINDS else item for item in items]


def time_scorer(spec: str, folder: str, images: list[np.ndarray]) -> tuple[float, int]:
    """(seconds an image of a scorer on this machine's CPU, numbers of its vector, 0 where it gives none). Loading is
    not the images' time. ConfigError as of `load_scorer`, and for what a scorer may not return."""
    function = load_scorer(spec, folder)
    _called(function, images[:1], spec)
    start = time.perf_counter()
    columns = _called(function, images, spec)
    seconds = (time.perf_counter() - start) / len(images)
    sizes = [len(value) for values in columns.values() for value in values if isinstance(value, np.ndarray)]
    return seconds, max(sizes, default=0)


def _called(function: Any, images: list[np.ndarray], spec: str) -> dict[str, list[Any]]:
    """The columns of a scorer. ConfigError where it fails."""
    try:
        return _checked(function(images) if images else {}, len(images), spec)
    except LucidFluxError:
        raise
    except Exception as error:  # theirs, not a defect of ours
        raise ConfigError(f"{spec} failed: {type(error).__name__}: {error}") from error


def scorer_name(spec: str) -> str:
    """The folder under scores/ of a scorer. ConfigError where the weights of a ready one are missing."""
    return ready_name(spec) if is_ready(spec) else re.sub(r"[^A-Za-z0-9_]+", ".", spec)


def load_scorer(spec: str, folder: str, device: str = "cpu") -> Any:
    """A ready scorer on `device`; or the function of `pkg.mod:function`, an instance where it is a class. `folder` is
    looked in last.

    ConfigError where there is none, or weights of a ready one are missing; InputError where these are others.
    """
    if is_ready(spec):
        from lucidflux_model.embedding.ready import ReadyScorer

        return ReadyScorer(spec, device)
    module, colon, name = spec.partition(":")
    if not colon or not name:
        raise ConfigError(f"--scorer takes pkg.mod:function or one of {', '.join(READY)}, not {spec!r}")
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--scorer {spec}: there is no module {error.name} (looked in {folder} too)") from None
    except AttributeError:
        raise ConfigError(f"--scorer {spec}: {module} has no {name}") from None
    return found() if isinstance(found, type) else found


def check_alone(pool: Pool, name: str) -> None:
    """ConfigError where the run has vectors of a ready scorer from other weights: their column has the same name."""
    kind = name.partition(".")[0]
    if kind not in READY:
        return
    for part in pool.parts:
        for other in part.folder.folders("scores"):
            if other != name and re.fullmatch(rf"{kind}\.[0-9a-f]{{{DIGITS}}}", other):
                raise ConfigError(
                    f"{part.folder} has scores/{other}, which other weights of {kind} gave: remove that folder, or "
                    "take those weights"
                )
