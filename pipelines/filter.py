"""The filter job: list, score, select, pack, report; every step resumes by what is already there."""

from __future__ import annotations

import json
from typing import Any

from lucidflux_data import ledger, report, runs, shards, sources, verify
from lucidflux_data.config import FilterConfig
from lucidflux_data.errors import ConfigError, TooManyFailed, VerificationError
from lucidflux_data.shards import canonical_json
from lucidflux_data.storage import Folder
from pipelines import pack as packing
from pipelines import score as scoring
from pipelines.executor import Executor
from pipelines.progress import Progress
from pipelines.worker import Unit


def list_into(
    folder: Folder,
    asked: list[str],
    config: FilterConfig,
    label: str,
    limit: int | None,
    steps: tuple[str, ...],
    progress: Progress,
) -> dict[str, Any]:
    """Lists the sources and starts the run, or finds it started: the first listing stays in force."""
    listed: dict[str, Any] = {"sources": asked, "limit": limit, "seed": 0 if limit else None}
    if folder.exists(runs.RUN_FILE):
        before = runs.read_run(folder)
        if before["listed"]["sources"] == asked and before["listed"]["limit"] == limit:
            run = runs.make_run(config, before["listed"], before["label"])
            runs.start_run(folder, run, steps)
            if folder.exists(runs.INVENTORY):
                progress.say(
                    f"resuming {folder}: {before['listed']['candidates']:,} candidates, as listed at the start"
                )
                return before
    listing = sources.list_sources(asked)
    table = listing.table if limit is None else sources.sample(listing.table, limit, seed=0)
    listed |= {"candidates": table.num_rows, "ignored": listing.ignored, "damaged_tars": listing.damaged_tars}
    run = runs.make_run(config, listed, label)
    runs.start_run(folder, run, steps)
    runs.write_inventory(folder, table)
    progress.say(f"{table.num_rows:,} candidates, {listing.ignored:,} other files ignored")
    for tar in listing.damaged_tars:
        progress.say(f"warning: {tar} breaks off; what stands before the break is used")
    return run


def score(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    folder.sweep()
    scoring.score_basic(folder, config, executor, progress)
    scoring.score_metric(folder, config, executor, progress)


def select(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> dict[str, Any]:
    """Missing scores, then the ledger; run.json takes the new rules when the ledger has them."""
    scoring.score_metric(folder, config, executor, progress)
    run = runs.read_run(folder)
    counts = ledger.write_ledger(folder, run["listed"]["candidates"], config)
    _update_run(folder, run, config)
    return counts


def pack(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> dict[str, Any]:
    run = _update_run(folder, runs.read_run(folder), config)
    manifest = packing.pack(folder, config, run["digests"], executor, progress)
    folder.publish("report.html", report.make_report(folder))
    folder.sweep()
    return manifest


def _update_run(folder: Folder, run: dict[str, Any], config: FilterConfig) -> dict[str, Any]:
    updated = runs.make_run(config, run["listed"], run["label"])
    if updated["digests"]["score"] != run["digests"]["score"]:
        raise ConfigError("these settings change the scores: start a new run with `score` or `filter`")
    if updated != run:
        folder.publish(runs.RUN_FILE, canonical_json(updated))
    return updated


def summary(folder: Folder) -> dict[str, Any]:
    """Counts of the ledger and of what was listed and packed."""
    run = runs.read_run(folder)
    counts = ledger.counts(folder.read_table(runs.LEDGER))
    result = {"run": str(folder), "label": run["label"], "ignored": run["listed"]["ignored"], **counts}
    if folder.exists(shards.MANIFEST):
        manifest = json.loads(folder.read(shards.MANIFEST))
        result |= {
            "shards": len(manifest["shards"]),
            "shard_bytes": manifest["bytes"],
            "urls": manifest["urls"],
        }
    return result


def check_failed(folder: Folder, limit: float | None) -> None:
    share = scoring.failed_share(folder)
    if limit is not None and share > limit:
        raise TooManyFailed(f"{share:.1%} of the candidates failed, more than the {limit:.1%} of --max-failed")


class _CheckShard:
    def __init__(self, folder: Folder, deep: bool, max_pixels: int) -> None:
        self.folder, self.deep, self.max_pixels = folder, deep, max_pixels

    def __call__(self, unit: Unit) -> list[str]:
        return verify.check_shard(self.folder, unit.payload, self.deep, self.max_pixels)


def verify_run(folder: Folder, deep: bool, repair: bool, executor: Executor, progress: Progress) -> dict[str, Any]:
    """Raises VerificationError with every problem; with `repair`, broken shards are rebuilt first."""
    problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems and repair:
        config = FilterConfig.model_validate(runs.read_run(folder)["config"])
        for name in broken:
            folder.remove(f"shards/{name}")
        _repair(folder, config, executor, progress)
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems:
        raise VerificationError("; ".join(problems[:20]) + (f" (+{len(problems) - 20} more)" if problems[20:] else ""))
    return {"run": str(folder), "samples": samples, "problems": 0, "deep": deep}


def _problems(folder: Folder, deep: bool, executor: Executor, progress: Progress) -> tuple[list[str], list[str], int]:
    problems = verify.check_set(folder)
    if not folder.exists(shards.MANIFEST):
        return problems, [], 0
    entries = shards.read_manifest(folder)["shards"]
    max_pixels = runs.read_run(folder)["config"]["decode"]["max_pixels"]
    units = [Unit(entry["name"], entry["samples"], entry) for entry in entries]
    broken = []
    with progress.phase("verify", sum(unit.size for unit in units), 0) as advance:
        for unit, found in executor.map(units, _CheckShard(folder, deep, max_pixels)):
            problems += sorted(found)
            broken += [unit.name] if found else []
            advance(unit.size)
    return sorted(problems), sorted(broken), sum(unit.size for unit in units)


def _repair(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """What is whole moves to the stage of the next pack, so that only what is broken is written again."""
    packing.restage(folder, config)
    score(folder, config, executor, progress)
    select(folder, config, executor, progress)
    pack(folder, config, executor, progress)
