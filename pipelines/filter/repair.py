"""Jobs around a set: failures measured again, metrics examined."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import decoders, strays
from lucidflux_data.audit import doubts as earlier
from lucidflux_data.audit import verify as audit_verify
from lucidflux_data.audit.forget import finish_forgetting
from lucidflux_data.errors import ConfigError, ImageError, InputError, VerificationError, suggest
from lucidflux_data.iqa.checks import SIDE_PX, device_drift, examine
from lucidflux_data.iqa.metrics import load_metric, lower_is_better
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import verify
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import PASSING, REFUSED, read_bytes
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_data.storage.formats import checked_bytes
from lucidflux_data.storage.journal import settle
from pipelines.execution.counting import count_done
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress, warn
from pipelines.execution.worker import Unit
from pipelines.filter import grow
from pipelines.filter import pack as packing
from pipelines.filter.checking import check_shards
from pipelines.filter.job import pack, score, select
from pipelines.filter.score import MeasureUnit

PASSING_REASONS = ("decode_timeout", "iqa_out_of_memory")  # may be gone on another machine, whatever the detail says
MOST_EXAMINED = 12  # photos on which a metric is tested


class Retried(TypedDict):
    tried: int  # candidates
    recovered: NotRequired[int]  # of those; not of outdated ones, which had not failed
    scores_dropped: int  # rows of further measures


class RunVerified(TypedDict):
    run: str
    samples: int
    problems: int  # none: they are an error
    deep: bool
    warnings: list[str]  # what no hash can show


def retry(folder: Folder, statuses: list[str], executor: Executor, progress: Progress) -> Retried:
    """Measures again what failed for one of `statuses`; without any, what a store did not give and what took too long.

    Rows that are well keep their bytes; a unit's file is replaced by one rename. Scores of metrics that failed so are
    dropped, and `select` computes them again. ConfigError for a word that is no failure.
    """
    for status in statuses:
        if status not in records.FAILURES:
            known = suggest(status, records.FAILURES, len(records.FAILURES))
            raise ConfigError(f"--status {status} is no failure: {known}")
    again = select_again(runs.read_basic(folder), statuses)
    config = _measure_again(folder, again, executor, progress)
    after = runs.read_basic(folder, ["status"])["status"].to_numpy(zero_copy_only=False)
    dropped = _drop_scores(folder, config.iqa.metric, statuses or list(PASSING_REASONS))
    folder.sweep()
    recovered = int((after[again] == "ok").sum())
    return {"tried": int(again.sum()), "recovered": recovered, "scores_dropped": dropped}


def _measure_again(
    folder: Folder, again: np.ndarray, executor: Executor, progress: Progress, same: bool = False
) -> FilterConfig:
    """The rows of scores/basic where `again` (bool, one a candidate) holds, of the units that are there. `same`: other
    bytes than those of before are a failure `changed`. Gives the config of the run."""
    about = runs.read_run(folder)
    config, size = FilterConfig.model_validate(about["config"]), run_folder.unit_size(about["listed"]["candidates"])
    configure(config.storage.model_dump())
    inventory, there, units = run_folder.read_inventory(folder), set(folder.names(runs.BASIC)), []
    for number in np.unique(np.flatnonzero(again) // size).tolist():
        if f"{run_folder.unit_name(number)}.parquet" not in there:
            continue
        rows = inventory.slice(number * size, size).to_pylist()
        known = runs.read_unit(folder, "basic", number).to_pylist()
        mine = again[number * size : (number + 1) * size]
        payload = [
            row | {"known": None if now else old, "sha256": old["sha256"] if same else None}
            for row, old, now in zip(rows, known, mine, strict=True)
        ]
        units.append(Unit(run_folder.unit_name(number), int(mine.sum()), payload))
    with progress.phase("retry", sum(unit.size for unit in units), 0) as advance:
        for unit in run(executor, "retry", units, MeasureUnit(config.decode, config.measures, folder), folder):
            advance(unit.size)
    return config


def measure_outdated(folder: Folder, executor: Executor, progress: Progress) -> Retried:
    """Measures again what decoders of an earlier version may have seen otherwise; then run.json names those of now.

    All further scores of those candidates are dropped: `select` computes them again, `score --scorer` a user's own.
    Killed half-way, the same command does it all again.
    """
    again = decoders.affected(folder)
    uris = run_folder.read_inventory(folder, ["uri"])["uri"].filter(pa.array(again))
    _measure_again(folder, again, executor, progress, same=True)
    dropped = 0
    for measure in folder.folders("scores"):
        if measure != "basic":
            dropped += _drop_rows(folder, measure, "uri", uris)
    about = {**runs.read_run(folder), **runs.made_with(), runs.MEASURED_AGAIN: records.VERSION}
    run_folder.write_about(folder, about)
    folder.sweep()
    return {"tried": int(again.sum()), "scores_dropped": dropped}


def select_again(basic: pa.Table, statuses: list[str]) -> np.ndarray:
    if statuses:
        return np.asarray(pc.is_in(basic["reason"], pa.array(statuses)).to_numpy())
    passing = pc.or_kleene(
        pc.is_in(basic["detail"], pa.array([PASSING, REFUSED])), pc.is_in(basic["reason"], pa.array(PASSING_REASONS))
    )
    return np.asarray(pc.fill_null(passing, False).to_numpy(zero_copy_only=False))


def _drop_scores(folder: Folder, metric: str, reasons: list[str]) -> int:
    return _drop_rows(folder, metric, "reason", pa.array(reasons))


def _drop_rows(folder: Folder, measure: str, column: str, values: pa.Array | pa.ChunkedArray) -> int:
    """Rows of scores/<measure> go whose `column` is one of `values`. Gives their number."""
    dropped = 0
    for number, table in runs.read_measure(folder, measure).items():
        out = pc.fill_null(pc.is_in(table[column], value_set=values), False)
        count = int(pc.sum(out).as_py() or 0)
        if count:
            left = table.filter(pc.invert(out))
            folder.publish(f"scores/{measure}/{run_folder.unit_name(number)}.parquet", checked_bytes(left))
        dropped += count
    return dropped


def examine_metrics(names: list[str], folder: Path | None) -> dict[str, dict[str, Any]]:
    """The card of each metric on real photos. ConfigError where a metric cannot be loaded or there are no photos."""
    images = []
    for row in list_sources([str(folder)]).table.to_pylist() if folder else _bundled_rows():
        try:
            pixels = pixels_apart(read_bytes(row["uri"], row["offset"], row["size"]))
        except ImageError:  # what is no image is of no use here
            continue
        if min(pixels.shape[:2]) >= SIDE_PX and pixels.std() > 20:
            images.append(pixels)
        if len(images) == MOST_EXAMINED:
            break
    if len(images) < 3:
        raise ConfigError("a metric is examined on three photos of 256 px or more: give --images")
    cards = {}
    for name in names:
        cards[name] = examine(load_metric(name), lower_is_better(name), images)
        devices = _devices()
        if len(devices) == 2:
            cards[name]["device_drift"] = device_drift(
                functools.partial(load_metric, name), (devices[0], devices[1]), images
            )
    return cards


def _bundled_rows() -> list[dict[str, Any]]:
    from lucidflux_data.sources.bundled import bundled_photos

    return [{"uri": f"file://{path}", "offset": -1, "size": -1} for path in bundled_photos()]


def _devices() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ("cpu",)
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@dataclass(frozen=True)
class _CheckPart:
    """`contents`: as of `verify.check_part`; `deep`: every image is decoded, too."""

    folder: Folder
    contents: bool
    deep: bool
    max_pixels: int

    def __call__(self, unit: Unit[verify.Part]) -> verify.Checked:
        decode = functools.partial(verify.check_image, max_pixels=self.max_pixels) if self.deep else None
        return verify.check_part(self.folder, unit.payload, self.contents, decode, count_done)


def verify_run(folder: Folder, deep: bool, repair: bool, executor: Executor, progress: Progress) -> RunVerified:
    """Raises VerificationError with every problem; with `repair`, broken shards are rebuilt first.

    What an earlier version may have got wrong, and no hash can show, is a warning: said, and in the result.
    """
    try:
        config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    except InputError as error:  # no run, or one of another job: nothing could be checked
        raise VerificationError(str(error)) from None
    unfit = audit_verify.find_unfit_tables(folder) if repair else []
    if repair:
        audit_verify.refuse_unfit(folder, audit_verify.check_digests(folder) + audit_verify.check_list(folder))
        settle(folder)
        folder.sweep()
        for name in unfit:
            folder.remove(name)
        packing.check_strip(folder, config.shards, repairs=True)
    problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems and repair and finish_forgetting(folder):
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if (problems or unfit) and repair:
        for name in broken:
            folder.remove(f"shards/{name}")
        _repair(folder, config, executor, progress)
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems:
        raise VerificationError("; ".join(problems[:20]) + (f" (+{len(problems) - 20} more)" if problems[20:] else ""))
    doubts = [*earlier.find_doubts(folder), *audit_verify.describe_unsealed(folder)]
    for doubt in doubts:
        warn(doubt)
    return {"run": str(folder), "samples": samples, "problems": 0, "deep": deep, "warnings": doubts}


def _problems(folder: Folder, deep: bool, executor: Executor, progress: Progress) -> tuple[list[str], list[str], int]:
    problems = audit_verify.check_set(folder)
    try:
        manifest = shards.read_manifest(folder, halfway=True)
    except VerificationError:
        return problems, verify.find_unfit(folder), 0
    max_pixels = runs.read_run(folder)["config"]["decode"]["max_pixels"]
    job = _CheckPart(folder, deep or folder.exists(run_folder.FORGOTTEN), deep, max_pixels)
    found, broken, samples = check_shards(manifest, deep, job, executor, progress)
    if not broken:
        problems += verify.check_manifest(folder, manifest)
    return sorted(problems + found), broken, samples


def _repair(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Damaged units of scores are measured again, and what belongs to nothing moves to stray/. What is whole stays;
    what lacks is written again."""
    grow.renew_part(folder)
    strays.move_aside(folder, strays.find_stray_units(folder))
    with contextlib.suppress(VerificationError):  # without a manifest, `pack` knows which shards are planned
        listed = [entry["name"] for entry in shards.read_manifest(folder, halfway=True)["shards"]]
        strays.move_aside(folder, strays.find_stray_shards(folder, listed))
    before = _read_whole_division(folder)
    if before is not None:  # only shards are broken: what was decided stays, and how it was divided
        pack(folder, config, executor, progress, before)
        return
    for name in strays.find_damaged_units(folder):
        folder.remove(name)
    score(folder, config, executor, progress)
    select(folder, config, executor, progress)
    pack(folder, config, executor, progress)


def _read_whole_division(folder: Folder) -> shards.Manifest | None:
    """The manifest where it, the ledger and the tables agree, so that it says what shards are to hold; else None."""
    if "base" in runs.read_run(folder) or audit_verify.check_set(folder):  # shards of a base are taken over anew
        return None
    manifest = shards.read_manifest(folder)
    divided = sum(entry["samples"] for entry in manifest["shards"])
    return manifest if divided == manifest["samples"] and "plan" in manifest["digests"] else None
