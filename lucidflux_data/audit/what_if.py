"""How many images other thresholds would keep: the selection, run again on the tables for a grid of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.selection import pool, records
from lucidflux_data.selection import rules as selection
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.shards import stripping
from lucidflux_data.storage.folder import Folder

GRID = {
    "rules.min_laplacian_variance": ("50", "100", "150", "200", "300"),
    "rules.max_laplacian_variance": ("4000", "6000", "8000", "10000"),
    "rules.max_flat_fraction": ("0.3", "0.4", "0.5", "0.6", "0.7"),
    "rules.min_side": ("0", "256", "512", "1024", "2048"),
}


class WhatIf(TypedDict):
    """A `setting` at a `value`: `survivors` of the cheap rules, how many the cut then keeps (`kept`), and whether that
    is the value `now`."""

    setting: str
    value: str
    survivors: int
    kept: int
    now: bool


class Explained(TypedDict):
    """`rows`: of the ledger; `config`: the settings of the run, as FilterConfig dumps them."""

    rows: list[records.LedgerRow]
    config: Mapping[str, Any]


def what_if(folder: Folder, config: FilterConfig) -> list[WhatIf]:
    """One row a setting, the others as they are: survivors of the cheap rules, and how many the cut then keeps.

    `kept` counts by the size of the cut alone; which images they are needs the scores that `select` would compute.
    """
    arrays = pool.load_pool(runs.parts(folder)).arrays
    rows: list[WhatIf] = []
    for name, values in GRID.items():
        for value in values:
            changed = make_config(settings=[f"{name}={value}"], base=config)
            survivors = int(np.sum(selection.apply_rules(arrays, changed.rules) == records.KEPT))
            cut = changed.iqa.metric != "none"
            kept = selection.number_kept(survivors, changed.cut) if cut else survivors
            now = changed == config
            rows.append({"setting": name, "value": value, "survivors": survivors, "kept": kept, "now": now})
    return rows


def explain(folder: Folder, wanted: str) -> Explained:
    """The ledger row of a uri, key or file name, and the rules in force. InputError where it is not one candidate."""
    sources = {new: old for old, new in stripping.packed_keys(folder).items()}
    wanted = sources.get(wanted, wanted)
    for column in ("uri", "key", "source_key"):
        rows = runs.read_ledger(folder, where=pc.field(column) == wanted)
        if rows.num_rows:
            break
    else:
        raise InputError(f"{wanted} is no uri, key or file name of a candidate of {folder}")
    return {"rows": rows.to_pylist(), "config": runs.read_run(folder)["config"]}
