"""explore.html of a run: one file, no server, no network, on which thresholds are chosen by eye.

`count.js` decides as `selection.rules` does; `explore.js` shows it. Columns travel as gzip in base64: float64 values,
since 32-bit floats would move images that lie on a bound. Equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from lucidflux_data.errors import InputError
from lucidflux_data.escapes import show
from lucidflux_data.explore import pictures, rows, sample
from lucidflux_data.measures.firewall import measure_in_force
from lucidflux_data.page.render import render_page
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import PRESETS, FilterConfig, RulesConfig, make_config
from lucidflux_data.selection.expression import columns_of
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.storage.folder import Folder

PAGE = "explore.html"
MOST_BYTES = 19_000_000
PICTURE_BYTES = 9_000_000


class Made(TypedDict):
    """`shown`: candidates in the page, all or a sample of them; `unread`: images near a threshold that are gone."""

    candidates: int
    shown: int
    pictures: int
    unread: int


INSTEAD = "`lucidflux-data report RUN` shows what is kept, and a selection without it can be explored"


def make_explore(folder: Folder, said: str, most: int = sample.MOST_ROWS) -> tuple[bytes, Made]:
    """The page as UTF-8 bytes. `said`: the run as the user calls it, for the command line; `most`: rows that the page
    has at most. Reads the ledger, the scores, and the images near the thresholds."""
    run = runs.read_run(folder)
    for name in ("where_tile", "semantic_duplicates", "quota", "balance"):
        if run["config"]["select"].get(name):
            raise InputError(f"{folder} has select.{name}, which no page can decide: {INSTEAD}")
    if "base" in run:
        raise InputError(f"{folder} adds to a set, which no page can decide as `select` does: {INSTEAD}")
    config = FilterConfig.model_validate(run["config"])
    pool = load_pool(runs.parts(folder), measure_in_force(run, config.select.forbid))
    deciding = rows.read_deciding(folder, pool, config)
    radius = config.select.near_duplicates
    drawn = sample.draw_sample(deciding, rows.find_units(deciding, radius), most)
    chosen = np.arange(len(deciding)) if drawn is None else drawn.rows
    near = rows.find_near(deciding, chosen, radius) if radius is not None else None
    columns = _columns(deciding, chosen, drawn, near) | _names(folder, chosen)
    about = _about(run, config, said, deciding, drawn, near, list_kinds(columns))
    packed = {name: base64.b64encode(gzip.compress(value, 6, mtime=0)).decode() for name, (_, value) in columns.items()}
    room = min(PICTURE_BYTES, MOST_BYTES - sum(map(len, packed.values())))
    wanted = pictures.choose_rows(deciding, _limits(config, deciding), chosen)
    found, unread = pictures.take_pictures(folder, [int(chosen[at]) for at in wanted], config.decode, room)
    place = {int(row): at for at, row in enumerate(chosen)} if found else {}
    about["pictures"] = {str(place[row]): picture for row, picture in found.items()}
    here = Path(__file__).parent
    page = render_page(
        here / "explore.html.j2",
        about,
        [here / name for name in ("count.js", "settings.js", "explore.js")],
        [here / "explore.css"],
        title=said.rstrip("/").rsplit("/", 1)[-1],
        label=run["label"],
        columns=packed,
        sampled=drawn is not None,
        version=run.get("version", "0.1"),
    )
    made: Made = {"candidates": len(deciding), "shown": len(chosen), "pictures": len(found), "unread": unread}
    return page, made


def list_kinds(columns: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
    return {name: kind for name, (kind, _) in columns.items()}


def _columns(
    deciding: rows.Deciding, chosen: np.ndarray, drawn: sample.Sample | None, near: rows.Near | None
) -> dict[str, tuple[str, bytes]]:
    """(kind of JavaScript's array, little-endian bytes) by name."""

    def of(values: np.ndarray, kind: str) -> tuple[str, bytes]:
        return kind, np.ascontiguousarray(values).astype(KINDS[kind]).tobytes()

    order = deciding.order[chosen]
    ranked = np.flatnonzero(order >= 0)
    dense = np.full(len(chosen), -1)
    dense[ranked[np.argsort(order[ranked])]] = np.arange(len(ranked))
    columns = {
        "fixed": of(deciding.fixed[chosen], "Int8"),
        "flags": of(deciding.flags[chosen], "Uint8"),
        "failed": of(deciding.failed[chosen], "Int8"),
        "own": of(deciding.codes[chosen], "Int8"),
        "order": of(dense, "Int32"),
    }
    columns |= {
        f"measure-{name}": of(values[chosen], "Float64")
        for name, values in deciding.measures.items()
        if np.isfinite(values).any()
    }
    if drawn is not None:
        columns |= {"units": of(drawn.units, "Int32"), "strata": of(drawn.strata, "Int32")}
    if near is not None:
        columns["near-rows"], columns["near-nodes"] = of(near.rows, "Int32"), of(near.nodes, "Int32")
        columns["near-keys"] = of(np.argsort(np.argsort(deciding.by_key[chosen][near.rows])), "Int32")
        columns["near-pairs"] = of(near.pairs.ravel(), "Int32")
    return columns


KINDS = {"Int8": "<i1", "Uint8": "<u1", "Int32": "<i4", "Float64": "<f8"}


def _names(folder: Folder, chosen: np.ndarray) -> dict[str, tuple[str, bytes]]:
    """The names in the source as a line each, unseen characters made visible, and the keys, 10 bytes each."""
    table = folder.read_table(runs.LEDGER, ["source_key", "key"]).take(pa.array(chosen, pa.int64()))
    names = [show(name) for name in table["source_key"].to_pylist()]
    keys = "".join(key or "0" * 20 for key in table["key"].to_pylist())
    return {
        "names": ("Text", "\n".join(names).encode("utf-8", "backslashreplace")),
        "keys": ("Uint8", bytes.fromhex(keys)),
    }


def _limits(config: FilterConfig, deciding: rows.Deciding) -> dict[str, list[float]]:
    """The values of each measure at which the run cuts."""
    limits: dict[str, list[float]] = {}
    for rule in rows.RULES:
        value = getattr(config.rules, rule.setting)
        if value is not None:
            limits.setdefault(rule.measure, []).append(float(value))
    scores = deciding.measures.get("score")
    inside = (deciding.codes == records.KEPT) & (deciding.order >= 0)
    if scores is not None and inside.any():
        limits["score"] = [float(scores[np.flatnonzero(inside)[np.argmax(deciding.order[inside])]])]
    return limits


def _about(
    run: runs.FilterRun,
    config: FilterConfig,
    said: str,
    deciding: rows.Deciding,
    drawn: sample.Sample | None,
    near: rows.Near | None,
    kinds: dict[str, str],
) -> dict[str, Any]:
    """What count.js and explore.js read beside the columns."""
    metric, select = config.iqa.metric, config.select
    known = {name.removeprefix("measure-") for name in kinds if name.startswith("measure-")}
    names = columns_of(select.where) if select.where else []
    reasons = rows.describe_reasons()
    tally = np.bincount(deciding.codes + 1, minlength=len(reasons) + 1).tolist()
    about: dict[str, Any] = {
        "run": said,
        "candidates": len(deciding),
        "reasons": reasons,
        "own_counts": tally,
        "own_ranked": deciding.ranked,
        "rules": [rule.__dict__ | {"known": rule.measure in known} | _bounds(rule.setting) for rule in rows.RULES],
        "metric": None if metric == "none" else metric,
        "lower_is_better": False,
        "own": describe_settings(config),
        "preset": None,
        "preset_name": run["preset"],
        "where": select.where,
        "where_names_metric": metric in names,
        "near_duplicates": select.near_duplicates,
        "near_followed": near is not None,
        "opt_out": list(select.opt_out),
        "include": list(run["included"]),
        "forbid": list(select.forbid),
        "columns": kinds,
        "sample": None,
    }
    if metric != "none":
        from lucidflux_data.iqa.metrics import lower_is_better

        about["lower_is_better"] = lower_is_better(metric)
    if run["preset"] in PRESETS:
        about["preset"] = describe_settings(make_config(run["preset"]))
    if drawn is not None:
        about["sample"] = {name: getattr(drawn, name).tolist() for name in ("sizes", "drawn", "movable")}
    return about


def _bounds(setting: str) -> dict[str, float | None]:
    """What the setting may be: `lowest`, `highest`, None where there is no end."""
    said = RulesConfig.model_fields[setting].metadata
    ends = {"lowest": "ge", "highest": "le"}
    return {name: next((getattr(one, end) for one in said if hasattr(one, end)), None) for name, end in ends.items()}


def describe_settings(config: FilterConfig) -> dict[str, Any]:
    """The settings that a page changes: `rules` by name, and the cut with its `mode` (fraction, k or all)."""
    cut = config.cut
    mode = "k" if cut.top_k is not None else "fraction" if cut.top_fraction is not None else "all"
    shares = {"mode": mode, "fraction": cut.top_fraction or "1", "k": cut.top_k or 1, "bound": None}
    return {"rules": {rule.setting: getattr(config.rules, rule.setting) for rule in rows.RULES}, "cut": shares}
