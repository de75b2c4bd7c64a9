"""Users' own scorers as units of work."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lucidflux_data.errors import ConfigError, LucidFluxError
from lucidflux_data.images import ImageError
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.storage.formats import table_bytes
from pipelines.execution.worker import File, Unit
from pipelines.filter.score import decoded

SCORER_BATCH = 16  # images that a user's function is given at a time


class ScorerUnit:
    """scores/<scorer>: the columns of a user's function, called with lists of uint8 HxWx3 RGB images."""

    def __init__(self, config: FilterConfig, spec: str, folder: str, on_gpu: bool = False) -> None:
        self.config, self.spec, self.folder, self.on_gpu = config, spec, folder, on_gpu
        self._function: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_function": None}

    def __call__(self, unit: Unit) -> Iterator[File]:
        if self._function is None:
            self._function = load_scorer(self.spec, self.folder)
        rows = [row["known"] for row in unit.payload if row["known"] is not None]
        todo = [row for row in unit.payload if row["known"] is None]
        pixels = decoded(todo, self.config, self.on_gpu)
        for start in range(0, len(todo), SCORER_BATCH):
            batch = todo[start : start + SCORER_BATCH]
            rows += self._batch(batch, list(islice(pixels, len(batch))))
        order = {row["uri"]: number for number, row in enumerate(unit.payload)}
        rows.sort(key=lambda row: order[row["uri"]])
        names = sorted({name for row in rows for name in row} - {"uri", "key", "reason"})
        filled = [{name: row.get(name) for name in ("uri", "key", *names, "reason")} for row in rows]
        yield f"scores/{scorer_name(self.spec)}/{unit.name}.parquet", table_bytes(pa.Table.from_pylist(filled))

    def _batch(self, rows: list[dict[str, Any]], pixels: list[np.ndarray | ImageError]) -> list[dict[str, Any]]:
        records, images = [], []
        for row, image in zip(rows, pixels, strict=True):
            reason = image.reason if isinstance(image, ImageError) else None
            records.append({"uri": row["uri"], "key": row["key"], "reason": reason})
            images += [] if isinstance(image, ImageError) else [image]
        good = [record for record in records if record["reason"] is None]
        try:
            columns = self._function(images) if images else {}
        except LucidFluxError:
            raise
        except Exception as error:  # theirs, not a defect of ours
            raise ConfigError(f"{self.spec} failed: {type(error).__name__}: {error}") from error
        for name, values in _checked(columns, len(images), self.spec).items():
            for record, value in zip(good, values, strict=True):
                record[name] = value
        return records


def _checked(columns: Any, count: int, spec: str) -> dict[str, list[Any]]:
    """The columns as Python values. ConfigError where the function does not keep its side."""
    if not isinstance(columns, dict):
        raise ConfigError(f"{spec} returned {type(columns).__name__}: a dict of columns is asked for")
    checked = {}
    for name, values in columns.items():
        items = values.tolist() if hasattr(values, "tolist") else list(values)
        if len(items) != count:
            raise ConfigError(f"{spec} returned {len(items)} values of {name!r} for {count} images")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)) or name in ("uri", "key", "reason"):
            raise ConfigError(
                f"{spec} returned a column named {name!r}: letters, digits and _ only; not uri, key, reason"
            )
        checked[name] = items
    return checked


def scorer_name(spec: str) -> str:
    """The folder under scores/ of a user's scorer."""
    return re.sub(r"[^A-Za-z0-9_]+", ".", spec)


def load_scorer(spec: str, folder: str) -> Any:
    """The function of `pkg.mod:function`, an instance where it is a class. `folder` is looked in last.

    Raises ConfigError where there is none.
    """
    module, colon, name = spec.partition(":")
    if not colon or not name:
        raise ConfigError(f"--scorer takes pkg.mod:function, not {spec!r}")
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"--scorer {spec}: there is no module {error.name} (looked in {folder} too)") from None
    except AttributeError:
        raise ConfigError(f"--scorer {spec}: {module} has no {name}") from None
    return found() if isinstance(found, type) else found
