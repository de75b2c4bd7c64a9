"""Measures beside the basic ones and the quality metric: history and hashes, benchmark leaks, users' own scorers.

Each is a job over the rows of a unit that are asked for and not there yet; `scores/<measure>/unit-*.parquet` has them.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lucidflux_data.config import FilterConfig
from lucidflux_data.errors import ConfigError, LucidFluxError
from lucidflux_data.images import ImageError, decode, luma
from lucidflux_data.measures import artifacts as history
from lucidflux_data.measures import fingerprints
from lucidflux_data.measures import near_duplicates as neardup
from lucidflux_data.selection import more_rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.ledger import load_pool
from lucidflux_data.selection.rules import is_kept
from lucidflux_data.sources.listing import list_sources, read_bytes, read_known
from lucidflux_data.storage.folder import Folder, table_bytes
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit
from pipelines.filter.score import MetricTable, decoded

HEAD = [pa.field("uri", pa.string(), nullable=False), pa.field("key", pa.string(), nullable=False)]
REASON = pa.field("reason", pa.string())
HISTORY_SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("jpeg_quality", pa.int32()),
        pa.field("blockiness", pa.float64()),
        pa.field("spectral_cutoff", pa.float64()),
        pa.field("fixed_sharpness", pa.float64()),
        pa.field("noise", pa.float64()),
        pa.field("phash", pa.uint64()),
        REASON,
    ]
)
LEAK_SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("leak", pa.string()),
        pa.field("leak_tiles", pa.int32()),
        pa.field("leak_bits", pa.int32()),
        REASON,
    ]
)
SCORER_BATCH = 16  # images that a user's function is given at a time


class _Rows(abc.ABC):
    """A job whose rows are computed one by one. Subclasses have `measure`, `schema`, `config` and `row`."""

    measure: str
    schema: pa.Schema
    config: FilterConfig

    def __call__(self, unit: Unit) -> Iterator[File]:
        rows = [row["known"] or self._row(row) for row in unit.payload]
        table = pa.Table.from_pylist(rows, self.schema)
        yield f"scores/{self.measure}/{unit.name}.parquet", table_bytes(table)

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        record = {"uri": row["uri"], "key": row["key"]}
        try:
            data = read_known(row["uri"], row["offset"], row["size"], row["key"])
            return record | self.row(data, decode(data, self.config.decode.max_pixels))
        except ImageError as error:
            return record | {"reason": error.reason}

    @abc.abstractmethod
    def row(self, data: bytes, pixels: np.ndarray) -> dict[str, Any]:
        """The columns of one image, from its encoded bytes and its uint8 HxWx3 pixels."""


class HistoryUnit(_Rows):
    """scores/history: what happened to the picture before, and its perceptual hash."""

    measure = more_rules.HISTORY
    schema = HISTORY_SCHEMA

    def __init__(self, config: FilterConfig) -> None:
        self.config = config

    def row(self, data: bytes, pixels: np.ndarray) -> dict[str, Any]:
        grey = luma(pixels)
        return {
            "jpeg_quality": history.jpeg_quality(data),
            "blockiness": history.blockiness(grey),
            "spectral_cutoff": history.spectral_cutoff(grey),
            "fixed_sharpness": history.fixed_sharpness(grey),
            "noise": history.noise(grey),
            "phash": neardup.phash(grey),
        }


class FirewallUnit(_Rows):
    """scores/firewall-*: the benchmark image that a candidate shows."""

    schema = LEAK_SCHEMA

    def __init__(self, config: FilterConfig, measure: str, files: list[bytes]) -> None:
        self.config, self.measure, self.files = config, measure, files
        self._firewall: fingerprints.Firewall | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_firewall": None}

    def row(self, data: bytes, pixels: np.ndarray) -> dict[str, Any]:
        if self._firewall is None:
            self._firewall = fingerprints.make_firewall(self.files)
        match = self._firewall.match(hashlib.sha256(data).hexdigest(), fingerprints.fingerprint(luma(pixels)))
        if match is None:
            return {}
        return {"leak": match.image, "leak_tiles": match.tiles, "leak_bits": match.distance}


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


def prepare(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Takes the measures that the rules in force need and the survivors of the cheap rules lack."""
    jobs: list[tuple[str, Any]] = []
    if config.select.forbid:
        files = firewall_files(folder, config, progress)
        measure = fingerprints.measure_name(config.select.forbid)
        jobs.append((measure, FirewallUnit(config, measure, files)))
    if more_rules.needs_history(config):
        jobs.append((more_rules.HISTORY, HistoryUnit(config)))
    for measure, job in jobs:
        run_measure(folder, config, measure, job, executor, progress)


def run_measure(
    folder: Folder,
    config: FilterConfig,
    measure: str,
    job: Any,
    executor: Executor,
    progress: Progress,
    stateful: bool = False,
) -> None:
    """A job over the survivors of the cheap rules of every part."""
    pool = load_pool(runs.parts(folder))
    alive = is_kept(more_rules.cheap_codes(pool, config))
    each = config.workers.gpus_per_actor
    for number, part in enumerate(pool.parts):
        wanted = np.zeros(part.candidates, bool)
        wanted[pool.rows[number][pool.of_part(alive, number)]] = True
        scores = MetricTable(part, pool.tables[number], measure, wanted)
        with progress.phase(measure, scores.missing, 0) as advance:
            for unit in run(executor, measure, scores.units(), job, part.folder, stateful, each):
                advance(unit.size)


def firewall_files(folder: Folder, config: FilterConfig, progress: Progress) -> list[bytes]:
    """The fingerprints of every forbidden suite, kept in RUN/firewall. What cannot be had is a warning by name."""
    there = set(folder.names("firewall"))
    files = []
    for item in config.select.forbid:
        name = f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"
        if name not in there:
            data = fingerprints_of(item, config.decode.max_pixels)
            if data is None:
                progress.say(
                    f"warning: {item} is neither a folder nor a fingerprint file nor a suite with one: NOT CHECKED"
                )
                continue
            folder.publish(f"firewall/{name}", data)
        files.append(folder.read(f"firewall/{name}"))
    return files


def firewall_card(folder: Folder, config: FilterConfig) -> dict[str, Any]:
    """What a set was checked against: {checked: {suite: sha256 of its fingerprints}, not_checked: [...]}."""
    there = set(folder.names("firewall"))
    names = {item: f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet" for item in config.select.forbid}
    checked = {
        item: hashlib.sha256(folder.read(f"firewall/{name}")).hexdigest()
        for item, name in names.items()
        if name in there
    }
    return {"checked": checked, "not_checked": [item for item in names if item not in checked]}


def fingerprints_of(item: str, max_pixels: int) -> bytes | None:
    """The fingerprint file of a suite's name, of a folder or tar of images, or the file itself; None for none."""
    own = fingerprints.known_suites() / f"{item}.parquet"
    for path in (Path(item), own):
        if path.suffix == ".parquet" and path.is_file():
            return path.read_bytes()
    if "://" not in item and not Path(item).exists():
        return None
    return make_fingerprints(item, item.rstrip("/").rsplit("/", 1)[-1], max_pixels)


def make_fingerprints(source: str, suite: str, max_pixels: int) -> bytes:
    """The fingerprint file of all images of a source that can be read."""
    images = []
    for row in list_sources([source]).table.to_pylist():
        try:
            data = read_bytes(row["uri"], row["offset"], row["size"])
            images.append((row["source_key"], data, luma(decode(data, max_pixels))))
        except ImageError:
            continue
    return fingerprints.fingerprint_file(images, suite)
