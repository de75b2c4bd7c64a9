"""How many images other thresholds would keep: the selection, run again on the tables for a grid of settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from lucidflux_data.selection import ledger, pool, records
from lucidflux_data.selection import rules as selection
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.decision import Trial, try_rules
from lucidflux_data.storage.folder import Folder

GRID = {
    "rules.min_laplacian_variance": ("50", "100", "150", "200", "300"),
    "rules.max_laplacian_variance": ("4000", "6000", "8000", "10000"),
    "rules.max_flat_fraction": ("0.3", "0.4", "0.5", "0.6", "0.7"),
    "rules.min_side": ("0", "256", "512", "1024", "2048"),
    "cut.top_fraction": ("0.05", "0.1", "0.2", "0.3", "0.5"),
}


class WhatIf(TypedDict):
    """A `setting` at a `value`: `survivors` of the cheap rules, how many the cut then keeps (`kept`), and whether that
    is the value `now`."""

    setting: str
    value: str
    survivors: int
    kept: int
    now: bool


class Tried(TypedDict):
    """Settings all at once. `now`: counts of the rules in force; `then`: of the others, None where scores are missing;
    `survivors`: of all rules but the cut; `kept`: how many, or how many at least where `scores_to_compute` of those
    survivors have no score, or `measures_to_take` lack another measure that a rule asks for."""

    settings: list[str]
    now: ledger.Counts
    then: ledger.Counts | None
    survivors: int
    kept: int
    scores_to_compute: int
    measures_to_take: int


def what_if(folder: Folder, config: FilterConfig) -> list[WhatIf]:
    """One row a setting, the others as they are: survivors of the cheap rules, and how many the cut then keeps.

    `kept` counts by the size of the cut alone; which images they are needs the scores that `select` would compute.
    """
    arrays = pool.load_pool(runs.parts(folder)).arrays
    rows: list[WhatIf] = []
    for name, values in GRID.items():
        for value in values if name != "cut.top_fraction" or config.iqa.metric != "none" else ():
            alone = ["cut.top_k=none"] if name == "cut.top_fraction" else []
            changed = make_config(settings=[*alone, f"{name}={value}"], base=config)
            survivors = int(np.sum(selection.apply_rules(arrays, changed.rules) == records.KEPT))
            cut = changed.iqa.metric != "none"
            kept = selection.number_kept(survivors, changed.cut) if cut else survivors
            now = changed == config
            rows.append({"setting": name, "value": value, "survivors": survivors, "kept": kept, "now": now})
    return rows


def try_settings(folder: Folder, config: FilterConfig, settings: Sequence[str]) -> Tried:
    """What `select` with `settings` (a.b=v) would count, as far as scores are there. ConfigError as `make_config`;
    InputError where the rules in force lack scores, so that there is nothing to compare with."""
    now = ledger.counts(runs.read_ledger(folder, ["keep", "reason"]))
    return describe_trial(try_rules(folder, make_config(settings=settings, base=config)), settings, now)


def describe_trial(trial: Trial, settings: Sequence[str], now: ledger.Counts) -> Tried:
    """A selection that was tried, beside the counts `now`."""
    missing, metric = trial.missing.rows, trial.config.iqa.metric
    waiting = missing.get(metric, np.zeros(0, np.int64))
    measures = [rows for name, rows in missing.items() if name != metric]
    unmeasured = np.unique(np.concatenate(measures)) if measures else np.zeros(0, np.int64)
    tried: Tried = {"settings": list(settings), "now": now, "then": None, "survivors": trial.missing.survivors,
                    "kept": 0, "scores_to_compute": len(waiting), "measures_to_take": len(unmeasured)}  # fmt: skip
    if not missing:
        then = ledger.count_codes(trial.decided[0])
        return tried | {"then": then, "kept": then["kept"]}
    if not trial.missing.where_waits:
        tried["kept"] = _count_surely_kept(trial.pool, trial.config, np.union1d(waiting, unmeasured))
    return tried


def _count_surely_kept(candidates: pool.Pool, config: FilterConfig, missing: np.ndarray) -> int:
    """Of those of which all is known: the cut of so many. Near-duplicates join groups when the others are known, so
    nothing is sure of them."""
    chosen = config.select
    if chosen.near_duplicates is not None or chosen.semantic_duplicates or chosen.quota or chosen.balance:
        return 0
    codes = ledger.find_survivors(candidates, config)
    codes[missing[records.is_kept(codes[missing])]] = records.CODE["low_iqa"]
    by_hand = int((records.is_kept(codes) & (codes != records.KEPT)).sum())
    alive = codes == records.KEPT
    if config.iqa.metric == "none":
        return by_hand + int(alive.sum())
    scores = candidates.numbers(config.iqa.metric, config.iqa.metric)
    return by_hand + selection.number_kept(int((alive & np.isfinite(scores)).sum()), config.cut)
