"""report.html of a run: funnel, histograms with the thresholds, contact sheets. One file, no server, no network.

Equal runs give equal bytes: no time, no place, and the images are chosen by score and key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import histogram
from lucidflux_data.audit.nearest import describe_none_near, find_nearest
from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.config import changes_between, say_value
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ImageError, InputError, StorageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.measures import firewall
from lucidflux_data.page.charts import short
from lucidflux_data.page.render import CHARTS, render_page
from lucidflux_data.selection import ledger, records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import PRESETS, FilterConfig, make_config
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.counts import describe_ignored
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder

THUMBNAIL_PX = 160
PER_SHEET = 12
Limits = list[tuple[str, float]]  # what a limit is called, and where it lies


class Tile(TypedDict):
    """An image of a sheet. `picture`: a data url, None where there is none; `value`: its score, in digits or empty."""

    picture: str | None
    value: str
    verdict: str
    kept: bool
    name: str


@dataclass
class Sheet:
    """Some images of the ledger: `rows` are chosen by what decides, `tiles` are filled when all are chosen. `none`: why
    there are no rows; `score`: the column that is shown with each."""

    title: str
    rows: list[int]
    score: str | None = None
    meaning: str = ""
    none: str = ""
    id: str = ""
    tiles: list[Tile] = field(default_factory=list)


def make_report(folder: Folder) -> bytes:
    """The page as UTF-8 bytes. Reads the ledger and, for the sheets, some of the candidates' images."""
    run = runs.read_run(folder)
    metric = run["config"]["iqa"]["metric"]
    names = ["laplacian_variance", "flat_fraction", *([metric] if metric != "none" else [])]
    table = runs.read_ledger(folder, ["keep", "reason", "key", "rank", *names])
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    counts, limits = ledger.counts(table), _read_limits(run, table, metric)
    charts = {
        name: chart for name in names if (chart := histogram.make_histogram(table, name, limits[name])) is not None
    }
    near = {
        name: [sheet for limit in limits[name] if (sheet := _near_limit(table, name, *limit)) is not None]
        for name in names
    }
    by_reason = [sheet for reason in records.REASONS if (sheet := _of_reason(table, reason)).rows]
    first = table.select(["keep", "key", "row"]).filter(pc.field("keep")).sort_by("key").slice(0, PER_SHEET)
    kept = Sheet("Kept", first["row"].to_pylist())
    del table
    _fill(folder, run, [*(sheet for each in near.values() for sheet in each), *by_reason, kept])
    return render_page(
        Path(__file__).parent / "report.html.j2",
        {"charts": charts},
        CHARTS,
        preset=run["preset"],
        changes=_list_changes(run),
        facts=_list_facts(runs.count_listed(run, counts["candidates"]), counts),
        sums=_describe_sums(runs.count_listed(run, counts["candidates"]), counts),
        rewards_grain=metric if metric in ("niqe", "piqe") else None,
        benchmarks=_describe_benchmarks(folder, run["config"]["select"]["forbid"]),
        counts=counts,
        funnel=list_funnel(counts),
        charts=charts,
        near=near,
        by_reason=by_reason,
        kept=kept,
    )


def _read_limits(run: runs.FilterRun, table: pa.Table, metric: str) -> dict[str, Limits]:
    rules = run["config"]["rules"]
    limits: dict[str, Limits] = {
        "laplacian_variance": [
            ("minimum", rules["min_laplacian_variance"]),
            ("maximum", rules["max_laplacian_variance"]),
        ],
        "flat_fraction": [("maximum", rules["max_flat_fraction"])],
    }
    if metric != "none":  # the score of the last image inside the cut
        ranked = table.select(["keep", "rank", metric])  # a filter copies what it leaves of every column
        inside = ranked.filter(pc.field("keep") & pc.is_valid(pc.field("rank"))).sort_by("rank")
        limits[metric] = [("cut", inside[metric][-1].as_py())] if inside.num_rows else []
    return limits


def _list_changes(run: runs.FilterRun) -> list[tuple[str, str, str]]:
    """(setting, here, in the preset) of what is changed; nothing where this version has no such preset."""
    if run["preset"] not in PRESETS:
        return []
    changes = changes_between(make_config(run["preset"]), FilterConfig.model_validate(run["config"]))
    return [(name, say_value(now), say_value(before)) for name, (before, now) in changes.items()]


def _list_facts(listed: runs.Sums, counts: ledger.Counts) -> list[tuple[str, str]]:
    rejected, failed = sum(counts["rejected"].values()), sum(counts["failed"].values())
    named = {
        "Listed": listed["listed"],
        "Candidates": counts["candidates"],
        "Kept": counts["kept"],
        "Rejected": rejected,
        "Failed": failed,
    }
    return [(name, f"{number:,}") for name, number in named.items()]


def _describe_sums(listed: runs.Sums, counts: ledger.Counts) -> list[str]:
    """Both sums in words: what was listed, and what became of the candidates."""
    rejected, failed = sum(counts["rejected"].values()), sum(counts["failed"].values())
    ignored = describe_ignored(listed["ignored_by"]) if listed["ignored_by"] else f"{listed['ignored']:,} ignored"
    return [
        f"{listed['listed']:,} listed = {counts['candidates']:,} candidates + {ignored}",
        f"{counts['candidates']:,} candidates = {counts['kept']:,} kept + {rejected:,} rejected + {failed:,} failed",
    ]


def _describe_benchmarks(folder: Folder, forbidden: list[str]) -> list[str]:
    """Which benchmarks the set was checked against, as the manifest says; before there is one, the ledger."""
    if not forbidden:
        return []
    if folder.exists(shards.MANIFEST):
        card = firewall.read_card(shards.read_manifest(folder), forbidden)
    else:
        card = firewall.make_card(forbidden, runs.read_run(folder).get(firewall.FIELD, {}))
    return firewall.describe_card(card)


class FunnelRow(TypedDict):
    """`kind`: class of its bar; `share`: of the candidates."""

    reason: str
    name: str
    meaning: str
    count: int
    share: float
    kind: str


def list_funnel(counts: ledger.Counts) -> list[FunnelRow]:
    """Candidates, each reason, kept."""
    named = [("candidates", counts["candidates"], "all")]
    named += [(reason, number, "") for reason, number in {**counts["failed"], **counts["rejected"]}.items()]
    named.append(("kept", counts["kept"], "kept"))
    total = max(1, counts["candidates"])
    return [
        {
            "reason": reason,
            "name": say_reason(reason),
            "meaning": records.WHAT_IT_MEANS.get(reason, ""),
            "count": number,
            "share": number / total,
            "kind": kind,
        }
        for reason, number, kind in named
    ]


def say_reason(reason: str) -> str:
    return reason.replace("_", " ").replace("iqa", "IQA")


def _of_reason(table: pa.Table, reason: str) -> Sheet:
    rows = table.select(["reason", "row"]).filter(pc.field("reason") == reason)["row"].slice(0, PER_SHEET).to_pylist()
    name = say_reason(reason)
    return Sheet(name[:1].upper() + name[1:], rows, meaning=records.WHAT_IT_MEANS[reason], id=reason)


def _near_limit(table: pa.Table, score: str, name: str, limit: float) -> Sheet | None:
    """The images at a limit, or a sentence where none is near it; None where there is no score at all."""
    title = f"Around the {name}, {short(limit)}"
    rows = find_nearest(table.select([score, "row"]), score, limit, PER_SHEET)
    if rows.num_rows:
        return Sheet(title, rows["row"].to_pylist(), score)
    note = describe_none_near(table, score, limit)
    return Sheet(title, [], none=note) if note else None


def _fill(folder: Folder, run: runs.FilterRun, sheets: list[Sheet]) -> None:
    """Tiles for the rows of all sheets, which are read once for all."""
    shown = ["uri", "key", "source_key", "offset", "bytes", "keep", "reason"]
    shown += sorted({sheet.score for sheet in sheets if sheet.score})
    if run["config"]["select"]["forbid"]:
        shown.append("leak")
    rows = sorted({row for sheet in sheets for row in sheet.rows})
    table = _take_rows(folder, shown, rows)
    about = dict(zip(rows, table.to_pylist(), strict=True))
    decode = DecodeConfig.model_validate(run["config"]["decode"])
    pictures = {number: _thumbnail(row, decode) for number, row in about.items()}
    for sheet in sheets:
        sheet.tiles = [_make_tile(about[number], pictures[number], sheet.score) for number in sheet.rows]


def _take_rows(folder: Folder, columns: list[str], rows: list[int]) -> pa.Table:
    """Some rows of the ledger, in ascending order, which are looked for a group at a time."""
    found, start = [], 0
    for group in runs.read_ledger_groups(folder, columns):
        mine = [row - start for row in rows if start <= row < start + group.num_rows]
        found.append(group.take(pa.array(mine, pa.int64())))
        start += group.num_rows
    return pa.concat_tables(found)


def _make_tile(row: records.LedgerRow, picture: str | None, score: str | None) -> Tile:
    verdict = "kept" if row["keep"] else say_reason(str(row["reason"]))
    leak = row.get("leak")
    return {
        "picture": picture,
        "value": f"{cast(Mapping[str, float], row)[score]:.4g}" if score else "",
        "verdict": f"{verdict}: {leak}" if leak else verdict,
        "kept": row["keep"],
        "name": row["source_key"],
    }


def _thumbnail(row: records.LedgerRow, decode: DecodeConfig) -> str | None:
    if row["reason"] in records.FAILURES and not row["reason"].startswith("iqa_"):
        return None  # it could not be decoded, or not in time
    try:
        data = read_known(row["uri"], row["offset"], row["bytes"] or -1, row["key"])
        pixels = pixels_apart(data, decode)  # where what a library prints reaches nobody
    except (ImageError, InputError, StorageError):
        return None
    return data_url(shrink(pixels, THUMBNAIL_PX), "jpeg", 80)
