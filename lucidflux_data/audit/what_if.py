"""How many images other thresholds would keep: the selection, run again on the tables for a grid of settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from lucidflux_data.config import FilterConfig, make_config
from lucidflux_data.selection import ledger
from lucidflux_data.selection import rules as selection
from lucidflux_data.selection import run as runs
from lucidflux_data.storage.folder import Folder

GRID = {
    "rules.min_laplacian_variance": ("50", "100", "150", "200", "300"),
    "rules.max_laplacian_variance": ("4000", "6000", "8000", "10000"),
    "rules.max_flat_fraction": ("0.3", "0.4", "0.5", "0.6", "0.7"),
    "rules.min_side": ("0", "256", "512", "1024", "2048"),
}


def what_if(folder: Folder, config: FilterConfig) -> list[dict[str, Any]]:
    """One row a setting, the others as they are: survivors of the cheap rules, and how many the cut then keeps.

    `kept` counts by the size of the cut alone; which images they are needs the scores that `select` would compute.
    """
    arrays = ledger.load_pool(runs.parts(folder)).arrays
    rows = []
    for name, values in GRID.items():
        for value in values:
            changed = make_config(settings=[f"{name}={value}"], base=config)
            survivors = int(np.sum(selection.apply_rules(arrays, changed.rules) == selection.KEPT))
            cut = changed.iqa.metric != "none"
            kept = selection.number_kept(survivors, changed.cut) if cut else survivors
            now = changed == config
            rows.append({"setting": name, "value": value, "survivors": survivors, "kept": kept, "now": now})
    return rows
