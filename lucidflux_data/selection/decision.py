"""Rules that are tried on the scores that exist, and the run that is written of what they decide. No image is read.

trial = try_rules(folder, config)      what `select` with these rules would decide of
trial.missing.rows                     the measures that it would take first; none: the decision is its own
trial.decide(), trial.make_ledger()    what it decides
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from lucidflux_data.errors import ConfigError
from lucidflux_data.measures import firewall
from lucidflux_data.measures.firewall import Compared
from lucidflux_data.selection import columns, ledger, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.expression import columns_of
from lucidflux_data.selection.pool import Pool, load_pool
from lucidflux_data.selection.records import KEPT, is_kept
from lucidflux_data.selection.run import FilterRun, Listed
from lucidflux_data.selection.suites import ForbiddenSuite, find_known
from lucidflux_data.selection.tiling import waits_for_metric
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder

OTHER_SCORES = "these settings change the scores: start a new run with `score` or `filter`"


@dataclass(frozen=True)
class Missing:
    """`rows`: int64 candidates of whom a measure is missing, by measure (`firewall`, `history`, the metric), none that
    is empty; `survivors`: of all rules but the cut, as far as they can be asked; `where_waits`: --where cannot be."""

    rows: Mapping[str, np.ndarray]
    survivors: int
    where_waits: bool


@dataclass(frozen=True)
class Trial:
    """A selection that is tried. `config`: with the lists of what was forgotten."""

    folder: Folder
    run: FilterRun
    config: FilterConfig
    pool: Pool
    suites: Mapping[str, ForbiddenSuite]  # forbidden, by item
    missing: Missing

    @cached_property
    def decided(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of ledger.decide. Only where nothing is missing is it what `select` decides."""
        return ledger.decide(self.pool, self.config)

    def make_ledger(self) -> pa.Table:
        """The table that `select` would write."""
        return pa.concat_tables(ledger.make_tables(self.pool, self.config, self.decided))


def try_rules(folder: Folder, config: FilterConfig) -> Trial:
    """What is there to decide by `config` about the candidates of a run. ConfigError for settings that change the
    scores, and as `check_columns`; InputError where the run is not scored to the end."""
    run, config = runs.read_run(folder), runs.with_forgotten(folder, config)
    if FilterConfig.model_validate(run["config"]).score_part() != config.score_part():
        raise ConfigError(OTHER_SCORES)
    columns.check_columns(config)
    suites, whole = find_known(folder, config.select)
    leaks = firewall.measure_name({item: suite.compared for item, suite in suites.items()}) if whole else None
    pool = load_pool(runs.parts(folder), leaks)
    return Trial(folder, run, config, pool, suites, find_missing(pool, config, whole))


def find_missing(pool: Pool, config: FilterConfig, known: bool = True) -> Missing:
    """About whom a measure in force would have to say more, and how many survive what can be decided without the cut.
    `known`: whether all forbidden suites are, that can be.

    Rows that are out whatever a measure says are left out. A --where that reads a measure which is missing waits.
    """
    codes = rules.cheap_codes(pool, config)
    lacking: dict[str, np.ndarray] = {}
    if not known:
        lacking[firewall.FIELD] = is_kept(codes)
    elif pool.leaks is not None:
        lacking[firewall.FIELD] = is_kept(codes) & ~pool.measured(pool.leaks)
        rules.apply_leaks(codes, pool)
    if rules.needs_history(config):
        lacking[rules.HISTORY] = is_kept(codes) & ~pool.measured(rules.HISTORY)
        rules.apply_history(codes, pool, config)
    where_waits = any(rows.any() and _where_reads(config, measure) for measure, rows in lacking.items())
    if not where_waits and config.iqa.metric not in columns_of(config.select.where or "true"):
        rules.apply_where(codes, pool, config)
    if not waits_for_metric(config):
        rules.apply_tiles(codes, pool, config)
    found = {measure: rows & is_kept(codes) for measure, rows in lacking.items()}
    if config.iqa.metric != "none":
        found[config.iqa.metric] = (codes == KEPT) & ~pool.measured(config.iqa.metric)
    rows = {measure: np.flatnonzero(where) for measure, where in found.items() if where.any()}
    return Missing(rows, int((codes == KEPT).sum()), where_waits)


def _where_reads(config: FilterConfig, measure: str) -> bool:
    """Whether --where names a column that the measure gives: then it cannot speak before the measure does."""
    names = set(columns_of(config.select.where or "true"))
    own = {"leak_tiles", "leak_bits"} if measure == firewall.FIELD else set(rules.HISTORY_COLUMNS)
    return bool(names & own)


def combine(folder: Folder, drawn_from: list[Folder], config: FilterConfig, preset: str) -> None:
    """Starts `folder` as a run that selects from the scores of other runs, or finds it started."""
    parts = [runs.read_run(part) for part in drawn_from]
    for part, run in zip(drawn_from, parts, strict=True):
        if FilterConfig.model_validate(run["config"]).score_part() != config.score_part():
            raise ConfigError(f"{part} was measured with other settings than {drawn_from[0]}: they cannot be combined")
    found = runs.count_together(parts)
    total = found["candidates"] + found["ignored"]
    listed: Listed = {
        "sources": [],
        "limit": None,
        "seed": None,
        "damaged_tars": [],
        "total": total,
        "candidates": found["candidates"],
        "ignored": found["ignored"],
        "ignored_by": found["ignored_by"],
        "allowed": [],
    }
    runs.start_run(folder, runs.make_run(config, listed, preset, [part.url for part in drawn_from]), ())


def write_decision(folder: Folder, pool: Pool, config: FilterConfig, compared: Mapping[str, Compared]) -> ledger.Counts:
    """Publishes the ledger, then run.json with the rules that it was made by. What run.json says of benchmarks goes
    before another ledger comes: killed between the two, nothing is checked."""
    run = runs.read_run(folder)
    if run.get(firewall.FIELD) and run[firewall.FIELD] != compared:
        before = FilterConfig.model_validate(run["config"])
        run_folder.write_about(folder, runs.renew_run(run, before, run["inputs"], {}))
    counts = ledger.write_ledger(folder, pool, config)
    update_run(folder, runs.read_run(folder), config, compared)
    return counts


def update_run(
    folder: Folder, run: FilterRun, config: FilterConfig, compared: Mapping[str, Compared] | None = None
) -> FilterRun:
    """run.json under other rules. ConfigError where they would change the scores."""
    updated = runs.renew_run(run, config, columns.join_digests(config), compared)
    if updated["digests"]["score"] != run["digests"]["score"]:
        raise ConfigError(OTHER_SCORES)
    if updated != run:
        run_folder.write_about(folder, updated)
    return updated
