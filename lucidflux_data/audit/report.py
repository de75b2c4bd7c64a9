"""report.html of a run: funnel, histograms with the thresholds, contact sheets. One file, no server, no network.

Equal runs give equal bytes: no time, no place, and the images are chosen by score and key alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit.nearest import describe_none_near, find_nearest
from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.escapes import for_html
from lucidflux_data.images import ImageError, decode
from lucidflux_data.measures import firewall
from lucidflux_data.page import render_page
from lucidflux_data.selection import ledger, records
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.counts import describe_ignored
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder

THUMBNAIL_PX = 160
PER_SHEET = 12
BINS = 48


def make_report(folder: Folder) -> bytes:
    """The page as UTF-8 bytes. Reads the ledger and, for the sheets, some of the candidates' images."""
    run = runs.read_run(folder)
    metric = run["config"]["iqa"]["metric"]
    scores = ["laplacian_variance", "flat_fraction", *([metric] if metric != "none" else [])]
    table = runs.read_ledger(folder, ["keep", "reason", "key", "rank", *scores])
    table = table.append_column("row", pa.array(np.arange(table.num_rows)))
    counts = ledger.counts(table)
    rules = run["config"]["rules"]
    limits = {
        "laplacian_variance": [rules["min_laplacian_variance"], rules["max_laplacian_variance"]],
        "flat_fraction": [rules["max_flat_fraction"]],
    }
    if metric != "none":
        limits[metric] = _cut_value(table, metric)
    parts: list[str | int] = [
        f"<h1>{for_html(run['label'])}</h1>",
        _sums(runs.count_listed(run, counts["candidates"]), counts),
        _note(metric),
        _firewall(folder, run["config"]["select"]["forbid"]),
        _funnel(counts),
    ]
    sheets = _Sheets(folder, run["config"]["decode"]["max_pixels"])
    for score, at in limits.items():
        parts.append(_histogram(table, score, at))
        parts += [_add_nearest(sheets, table, score, limit) for limit in at]
    for reason in records.REASONS:
        rows = table.filter(pc.field("reason") == reason).slice(0, PER_SHEET)
        parts.append(sheets.add(f"{reason}: {records.WHAT_IT_MEANS[reason]}", rows, None))
    kept = table.filter(pc.field("keep")).sort_by("key").slice(0, PER_SHEET)
    parts.append(sheets.add("Kept (the first by key)", kept, None))
    del table
    return render_page(for_html(run["label"]), sheets.filled(parts))


def _sums(listed: runs.Sums, counts: ledger.Counts) -> str:
    """Both sums in words: what was listed, and what became of the candidates."""
    rejected, failed = sum(counts["rejected"].values()), sum(counts["failed"].values())
    ignored = describe_ignored(listed["ignored_by"]) if listed["ignored_by"] else f"{listed['ignored']:,} ignored"
    return (
        f"<p class=note>{listed['listed']:,} listed = {counts['candidates']:,} candidates + {for_html(ignored)}<br>"
        f"{counts['candidates']:,} candidates = {counts['kept']:,} kept + {rejected:,} rejected + {failed:,} failed</p>"
    )


def _note(metric: str) -> str:
    if metric not in ("niqe", "piqe"):
        return ""
    return (
        f"<p class=note>{metric} rewards grain and JPEG blocking (quality 75 lowers NIQE by 0.46 on average): "
        "it serves demonstrations and tests. The published set was cut by clipiqa.</p>"
    )


def _firewall(folder: Folder, forbidden: list[str]) -> str:
    """Which benchmarks the set was checked against, as the manifest says; before there is one, the ledger."""
    if not forbidden:
        return ""
    if folder.exists(shards.MANIFEST):
        card = firewall.read_card(shards.read_manifest(folder), forbidden)
    else:
        card = firewall.make_card(forbidden, runs.read_run(folder).get(firewall.FIELD, {}))
    lines = firewall.describe_card(card)
    told = [f"<b>{for_html(line)}</b>" if line.startswith("NOT") else for_html(line) for line in lines]
    return f"<p class=note>Benchmarks: {'; '.join(told)}</p>"


def _funnel(counts: ledger.Counts) -> str:
    rows = [("candidates", counts["candidates"], "")]
    rows += [(reason, n, " out") for reason, n in {**counts["failed"], **counts["rejected"]}.items()]
    rows.append(("kept", counts["kept"], ""))
    total = max(1, counts["candidates"])
    lines = [
        f"<tr><td>{name}<td class=n>{n:,}<td class=n>{n / total:.1%}"
        f"<td><span class='bar{kind}' style='width:{max(1, round(400 * n / total))}px'></span>"
        f"<td class=note>{records.WHAT_IT_MEANS.get(name, '')}"
        for name, n, kind in rows
    ]
    return "<h2>Funnel</h2><table>" + "".join(lines) + "</table>"


def _cut_value(table: pa.Table, metric: str) -> list[float]:
    """The score of the last image inside the cut."""
    inside = table.filter(pc.field("keep") & pc.is_valid(pc.field("rank"))).sort_by("rank")
    return [inside[metric][-1].as_py()] if inside.num_rows else []


def _histogram(table: pa.Table, score: str, limits: list[float]) -> str:
    values = pc.drop_null(table[score]).to_numpy()
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return ""
    logarithmic = score == "laplacian_variance"
    scaled, marks = (np.log10(values + 1), [np.log10(m + 1) for m in limits]) if logarithmic else (values, limits)
    low, high = (
        min(scaled.min(), *marks) if marks else scaled.min(),
        max(scaled.max(), *marks) if marks else scaled.max(),
    )
    heights, edges = np.histogram(scaled, BINS, (low, high if high > low else low + 1))
    width, height, step = 960, 140, 960 / BINS
    bars = "".join(
        f"<rect x='{i * step:.1f}' y='{height - height * n / heights.max():.1f}' width='{step - 1:.1f}' "
        f"height='{height * n / heights.max():.1f}' fill='#3b6ea8'><title>{n}</title></rect>"
        for i, n in enumerate(heights)
    )
    lines = "".join(
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='0' y2='{height}' stroke='#c0392b' stroke-width='2'/>"
        f"<text x='{min(x + 4, width - 60):.1f}' y='12'>{limit:.4g}</text>"
        for limit, x in zip(limits, [(m - edges[0]) / (edges[-1] - edges[0]) * width for m in marks], strict=True)
    )
    ends = [10**edge - 1 if logarithmic else edge for edge in (edges[0], edges[-1])]
    axis = f"<text x='0' y='{height + 14}'>{ends[0]:.4g}</text>"
    axis += f"<text x='{width}' y='{height + 14}' text-anchor='end'>{ends[1]:.4g}</text>"
    scale = ", logarithmic" if logarithmic else ""
    svg = f"<svg viewBox='0 0 {width} {height + 20}' width='100%' role=img>{bars}{lines}{axis}</svg>"
    return f"<h2>{for_html(score)} <span class=note>({len(values):,} images{scale})</span></h2>{svg}"


def _add_nearest(sheets: _Sheets, table: pa.Table, score: str, limit: float) -> str | int:
    """The sheet of the images at a limit; a sentence where none is near it."""
    title = f"Nearest to {score} = {limit:g}"
    rows = find_nearest(table, score, limit, PER_SHEET)
    if rows.num_rows:
        return sheets.add(title, rows, score)
    told = describe_none_near(table, score, limit)
    return f"<h2>{for_html(title)}</h2><p class=note>{told}</p>" if told else ""


class _Sheets:
    """Contact sheets: rows are chosen first, by what decides; what is shown of the few is read once for all."""

    def __init__(self, folder: Folder, max_pixels: int) -> None:
        self.folder, self.max_pixels = folder, max_pixels
        self._sheets: list[tuple[str, list[int], str | None]] = []

    def add(self, title: str, rows: pa.Table, score: str | None) -> int:
        """The number of the sheet, which takes the place of its html until `filled`."""
        self._sheets.append((title, rows["row"].to_pylist(), score))
        return len(self._sheets) - 1

    def filled(self, parts: list[str | int]) -> str:
        """`parts` as html, with every sheet in its place."""
        shown = ["uri", "key", "source_key", "offset", "bytes", "keep", "reason"]
        shown += sorted({score for _, _, score in self._sheets if score})
        rows = sorted({row for _, chosen, _ in self._sheets for row in chosen})
        if runs.read_run(self.folder)["config"]["select"]["forbid"]:
            shown.append("leak")
        table = self.folder.read_table(runs.LEDGER, shown).take(pa.array(rows, pa.int64()))
        about = dict(zip(rows, table.to_pylist(), strict=True))
        html_of = [self._sheet(title, [about[row] for row in chosen], score) for title, chosen, score in self._sheets]
        return "\n".join(text for text in (html_of[p] if isinstance(p, int) else p for p in parts) if text)

    def _sheet(self, title: str, rows: list[records.LedgerRow], score: str | None) -> str:
        if not rows:
            return ""
        figures = []
        for row in rows:
            value = f"{score} {cast(Mapping[str, float], row)[score]:.4g}<br>" if score else ""
            verdict = "kept" if row["keep"] else str(row["reason"])
            leak = row.get("leak")
            if leak:
                verdict += f": {for_html(leak)}"
            name = for_html(row["source_key"])
            figures.append(
                f"<figure>{_thumbnail(row, self.max_pixels)}{value}{verdict}<br><span class=note>{name}</span></figure>"
            )
        return f"<h2>{for_html(title)}</h2><div class=sheet>{''.join(figures)}</div>"


def _thumbnail(row: records.LedgerRow, max_pixels: int) -> str:
    if row["reason"] in records.FAILURES and not row["reason"].startswith("iqa_"):
        return "<div class=note>no picture</div>"  # it could not be decoded, or not in time
    try:
        pixels = decode(read_known(row["uri"], row["offset"], row["bytes"] or -1, row["key"]), max_pixels)
    except (ImageError, InputError, StorageError):
        return "<div class=note>no picture</div>"
    return f"<img alt='' src='{data_url(shrink(pixels, THUMBNAIL_PX), 'jpeg', 80)}'>"
