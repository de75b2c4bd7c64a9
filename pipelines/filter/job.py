"""The filter job: list, score, select, pack, report; every step resumes by what is already there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import report
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.growth.shards import describe_lineage
from lucidflux_data.measures import firewall
from lucidflux_data.selection import columns, decision, ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.selection.records import KEPT
from lucidflux_data.selection.rules import number_kept
from lucidflux_data.selection.run import FilterRun, Listed
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources import listing as sources
from lucidflux_data.sources.counts import describe_ignored
from lucidflux_data.sources.uris import restore_url
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.allowed import is_below, prefixes_to_allow
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import parse_json
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress, warn
from pipelines.filter import estimate as plan
from pipelines.filter import measures
from pipelines.filter import pack as packing
from pipelines.filter import score as scoring

LIST = ".txt"  # of --include: candidates of the run itself


class Preview(TypedDict):
    """What a selection would start from."""

    candidates: int
    survivors: int  # of the cheap rules
    scores_to_compute: int
    kept_by_the_rules: int


def list_into(
    folder: Folder,
    asked: list[str],
    config: FilterConfig,
    preset: str,
    limit: int | None,
    steps: tuple[str, ...],
    progress: Progress,
) -> None:
    """Lists the sources and starts the run, or finds it started: the first listing stays in force."""
    columns.check_columns(config)
    if folder.exists(run_folder.RUN_FILE):
        before = runs.read_run(folder)
        if before["listed"]["sources"] == asked and before["listed"]["limit"] == limit:
            inputs = columns.join_digests(config)
            compared = before.get("firewall", {})
            run = runs.make_run(config, before["listed"], preset, before["runs"], before["included"], inputs, compared)
            runs.start_run(folder, run, steps)
            if folder.exists(run_folder.INVENTORY):
                progress.say(
                    f"resuming {folder}: {before['listed']['candidates']:,} candidates, as listed at the start"
                )
                for warning in before["listed"].get("warnings", []):  # a run of 0.1 does not say
                    warn(warning)
                _warn_of_uris_elsewhere(folder, before)
                return
    table, listed = _list(asked, limit, progress, config.storage.allow_uris)
    run = runs.make_run(config, listed, preset, inputs=columns.join_digests(config))
    runs.start_run(folder, run, steps)
    run_folder.write_inventory(folder, table)


def _warn_of_uris_elsewhere(folder: Folder, run: FilterRun) -> None:
    """A run that was listed before there was an allowance keeps what its tables named, and that is said."""
    if "allowed" in run["listed"]:
        return
    sources = run["listed"]["sources"]
    if any(mark in source for source in sources for mark in "*?["):
        return
    around = [source.rsplit("/", 1)[0] if source.lower().endswith(".parquet") else source for source in sources]
    uris = run_folder.read_inventory(folder, ["uri"])["uri"].to_pylist()
    elsewhere = [uri for uri in uris if not is_below(restore_url(uri.partition("#")[0]), around)]
    if elsewhere:
        warn(
            f"{len(elsewhere):,} candidates lie outside the sources, as an earlier version listed them, and "
            f"are read: {', '.join(prefixes_to_allow(elsewhere))}"
        )


def _list(
    asked: list[str], limit: int | None, progress: Progress, allowed: Sequence[str] = ()
) -> tuple[pa.Table, Listed]:
    """The candidates, and what run.json says of the listing. Says it, with a warning for each thing that could not be
    read as a whole."""
    listing = sources.list_sources(asked)
    table = listing.table if limit is None else sources.sample(listing.table, limit, seed=0)
    left_out = listing.table.num_rows - table.num_rows
    kinds = listing.ignored_by | ({"not_drawn": left_out} if left_out else {})
    progress.say(f"{table.num_rows:,} candidates, {describe_ignored(kinds)}")
    for warning in listing.all_warnings():
        warn(warning)
    return table, {
        "sources": asked,
        "limit": limit,
        "seed": 0 if limit else None,
        "candidates": table.num_rows,
        "ignored": listing.ignored + left_out,
        "ignored_by": kinds,
        "total": listing.table.num_rows + listing.ignored,
        "damaged_tars": listing.damaged_tars,
        "warnings": listing.all_warnings(),
        "allowed": [*asked, *allowed],
    }


def preview_listing(asked: list[str], limit: int | None, progress: Progress) -> dict[str, Any]:
    """What a run would list: `listed` = `candidates` + `ignored`, by kind."""
    _, found = _list(asked, limit, progress)
    counted = {"candidates": found["candidates"], "ignored": found["ignored"], "ignored_by": found["ignored_by"]}
    return {"listed": found["total"], **counted, "damaged_tars": found["damaged_tars"]}


def score(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    folder.sweep()
    if not runs.read_run(folder)["runs"]:
        scoring.score_basic(folder, config, executor, progress)
    pool, _ = measures.prepare(folder, config, executor, progress)
    scoring.score_metric(pool, config, executor, progress)


def select(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> dict[str, Any]:
    """Missing scores, then the ledger; run.json takes the new rules when the ledger has them. What was forgotten stays
    out, whatever lists the rules name."""
    config = runs.with_forgotten(folder, config)
    columns.check_columns(config)
    pool, compared = measures.prepare(folder, config, executor, progress)
    scoring.score_metric(pool, config, executor, progress)
    counts: dict[str, Any] = {**decision.write_decision(folder, pool, config, compared)}
    if config.select.forbid:
        counts["benchmarks"] = firewall.describe_card(firewall.make_card(config.select.forbid, compared))
    return counts


def preview(parts: list[runs.Part], config: FilterConfig, leaks: str | None = None) -> Preview:
    """What a selection would start from: survivors of the cheap rules, scores to compute, how many the cut keeps.
    `leaks`: as of a Pool."""
    pool = load_pool(parts, leaks)
    codes = ledger.find_survivors(pool, config)
    left = int((codes == KEPT).sum())
    kept = number_kept(left, config.cut) if config.iqa.metric != "none" else left
    missing = scoring.missing_scores(pool, config)
    return {"candidates": len(codes), "survivors": left, "scores_to_compute": missing, "kept_by_the_rules": kept}


def include(folder: Folder, asked: list[str], config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Takes runs, anything that can be a source (scored first, without a cut), and candidates of its own that a list
    (.txt) names into a run beside its rules."""
    run = runs.read_run(folder)
    urls, elsewhere = [], []
    for item in asked:
        place = Folder(item)
        if runs.leads_to(place, folder):
            raise ConfigError(f"{item} is {folder} itself, or draws from it: it cannot be included in it")
        if item.endswith(LIST) and not place.exists(run_folder.RUN_FILE):
            urls.append(_include_named(folder, item, config, executor, progress).url)
            continue
        if not place.exists(run_folder.RUN_FILE):
            place = Folder(f"{folder.url}/included/{digest(absolute_url(item))[:12]}")
            own = make_config(settings=["iqa.metric=none"], base=config)
            list_into(place, [absolute_url(item)], own, run["preset"], None, ("score",), progress)
            score(place, own, executor, progress)
        urls.append(place.url)
        elsewhere.append(place.url)
    run["included"] = urls
    run["listed"]["included"] = [runs.count_together([runs.read_run(Folder(url))]) for url in elsewhere]
    run_folder.write_about(folder, run)


def _include_named(folder: Folder, place: str, config: FilterConfig, executor: Executor, progress: Progress) -> Folder:
    """A run, below `folder`, of its candidates that a list names by sha256, key or uri. InputError for an entry that is
    none of them, and for a list of nothing."""
    wanted = list(dict.fromkeys(columns.read_list(place)))
    parts = [part.folder for part in runs.parts(folder) if not part.included]
    asked: list[str] = []
    found, met = [], set[str]()
    for part in parts:
        basic = runs.read_basic(part, ["uri", "key", "sha256"])
        named = np.zeros(basic.num_rows, bool)
        for column in basic.columns:
            named |= pc.is_in(column, pa.array(wanted, pa.string())).to_numpy()
        met |= {value for column in basic.filter(pa.array(named)).columns for value in column.to_pylist()}
        inventory = run_folder.read_inventory(part).filter(pa.array(named))
        number = pc.add(inventory["source"], pa.scalar(len(asked), pa.int32()))
        found.append(inventory.set_column(inventory.column_names.index("source"), "source", number))
        asked += runs.read_run(part)["listed"]["sources"]
    missing = [item for item in wanted if item not in met]
    if missing or not wanted:
        raise InputError(f"{place} names {missing[0] if missing else 'nothing'}, which is no candidate of {folder}")
    table = pa.concat_tables(found).cast(sources.INVENTORY)
    own = make_config(settings=["iqa.metric=none"], base=config)
    listed: Listed = {"sources": asked, "limit": None, "seed": None, "candidates": table.num_rows, "ignored": 0,
                      "ignored_by": {}, "total": table.num_rows, "damaged_tars": [], "warnings": [],
                      "allowed": [*asked, *own.storage.allow_uris]}  # fmt: skip
    below = Folder(f"{folder.url}/included/{digest(sorted(table['uri'].to_pylist()))[:12]}")
    runs.start_run(below, runs.make_run(own, listed, runs.read_run(folder)["preset"]), ())
    run_folder.write_inventory(below, table)
    score(below, own, executor, progress)
    return below


def pack(
    folder: Folder,
    config: FilterConfig,
    executor: Executor,
    progress: Progress,
    before: shards.Manifest | None = None,
) -> shards.Manifest:
    """`before`: as of pack.pack."""
    packing.check_strip(folder, config.shards)
    config = runs.with_forgotten_of_ledger(runs.read_run(folder), config)
    run = decision.update_run(folder, runs.read_run(folder), config)
    forbidden = config.select.forbid
    card = describe_lineage(run)
    if forbidden:
        card[firewall.FIELD] = firewall.make_card(forbidden, run.get(firewall.FIELD, {}))
    manifest = packing.pack(folder, config, run["digests"], executor, progress, card, before)
    folder.publish("report.html", report.make_report(folder))
    folder.sweep()
    return manifest


def summary(folder: Folder) -> dict[str, object]:
    """Counts of the ledger and of what was listed and packed."""
    run = runs.read_run(folder)
    counts = ledger.counts(runs.read_ledger(folder, ["keep", "reason"]))
    result: dict[str, object] = {"run": str(folder), "label": run["label"]}
    result |= {**runs.count_listed(run, counts["candidates"]), **counts}
    if not result["ignored_by"]:
        del result["ignored_by"]
    if folder.exists(shards.MANIFEST):
        manifest = parse_json(folder.read(shards.MANIFEST))
        result |= {"version": manifest["version"]} if "version" in manifest else {}
        result |= {
            "shards": len(manifest["shards"]),
            "shard_bytes": manifest["bytes"],
            "urls": manifest["urls"],
        }
        if run["config"]["select"]["forbid"]:
            card = firewall.read_card(manifest, run["config"]["select"]["forbid"])
            result["benchmarks"] = firewall.describe_card(card)
        if "stripped" in manifest:
            tags, images = manifest["stripped"]["tags"], manifest["stripped"]["images"]
            result["stripped"] = f"{', '.join(tags)} of {images} images, which have other bytes and keys now"
            unknown = manifest["stripped"]["not_looked_into"]
            if unknown and "unsupported" in manifest["stripped"]:
                formats = ", ".join(f"{count} {name}" for name, count in unknown.items())
                fate = "left out" if manifest["stripped"]["unsupported"] == "drop" else "packed as they are"
                result["not_stripped"] = f"{formats}: {fate}"
    return {**result, **(plan.compare_with_run(folder) or {})}
