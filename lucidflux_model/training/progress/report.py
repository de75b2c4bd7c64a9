"""report.html of a training run: what it is, its curves, the last strips. One file, no server, no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from lucidflux_data.codecs.encoding import data_url
from lucidflux_data.escapes import for_html
from lucidflux_data.page import STYLE
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.training.config import BINS
from lucidflux_model.training.progress.log import Step, read_metrics
from lucidflux_model.training.progress.validation import PLACE
from lucidflux_model.training.run_file import CHANGES
from lucidflux_model.weights.published import MARK

REPORT = "report.html"
WIDTH, HEIGHT, MARGIN, POINTS = 960, 180, 64, 400
FEW = 8  # points that are marked one by one
STRIPS, STRIP_PX = 8, 1920  # shown of each set, and how wide at most; the files in validation/ are whole
COLOURS = ("#3b6ea8", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93")
Point = tuple[int, float]


def make_report(run: Path) -> bytes:
    """From run.json, metrics.jsonl and validation/ of a run that has begun."""
    about = parse_json((run / "run.json").read_text())
    lines = read_metrics(run)
    config = about["config"]
    parts = [f"<h1>{for_html(about['label'])}</h1>", f"<p class=note>{_counts(lines, config)}</p>"]
    if about.get(MARK):
        suites = for_html(", ".join(about[MARK]))
        parts.append(f"<p class=note>Validated on {suites}: its checkpoints are marked, and no fair entry there.</p>")
    for change in about.get(CHANGES, []):
        told = for_html(f"After step {change['after_step']:,} the data changed: {change['what']}.")
        parts.append(f"<p class=note>{told} From there on this run repeats no other exactly.</p>")
    bins = [f"{i / BINS:g} to {(i + 1) / BINS:g}" for i in range(BINS)]
    parts.append(_chart("Loss", {"a step": _series(lines, "loss")}))
    by_bin = {name: _series(lines, "loss_by_sigma", i) for i, name in enumerate(bins)}
    parts.append(_chart("Loss by sigma", by_bin))
    measured = [{"step": line["step"], **line["validation"]} for line in lines if "validation" in line]
    names = {"weights": "loss", "moving average": "ema_loss"}
    parts.append(_chart("Validation loss", _named(measured, names)))
    weights = "ema_loss_by_sigma" if measured and "ema_loss" in measured[0] else "loss_by_sigma"
    validated = {name: _series(measured, weights, i) for i, name in enumerate(bins)}
    parts.append(_chart("Validation loss by sigma", validated))
    parts.append(_chart("PSNR of restored pairs, dB", _named(measured, {"psnr": "psnr"})))
    parts += _suites(lines)
    parts.append(_chart("Norm of the gradient", {"before clipping": _series(lines, "grad_norm")}))
    parts.append(_chart("Learning rate", {"rate": _series(lines, "lr")}))
    parts.append(_chart("Images a second", {"process 0": _series(lines, "images_per_s")}))
    parts += [_strips(run), _settings(config)]
    title = for_html(about["label"])
    body = "\n".join(part for part in parts if part)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>{body}</html>\n"
    )
    return page.encode()


def _suites(lines: list[Step]) -> list[str]:
    """A curve for each measure of each benchmark suite."""
    found: dict[tuple[str, str], list[Point]] = {}
    for line in lines:
        for suite, figures in (line["validation"].get("suites", {}) if "validation" in line else {}).items():
            for name, value in (("psnr", figures.get("psnr")), ("niqe", figures.get("niqe"))):
                if value is not None:
                    found.setdefault((suite, name), []).append((line["step"], value))
    titles = {"psnr": "PSNR, dB", "niqe": "NIQE, lower is better"}
    return [_chart(f"{suite}: {titles[name]}", {name: points}) for (suite, name), points in found.items()]


def _counts(lines: list[Step], config: Mapping[str, Any]) -> str:
    if not lines:
        return "no step yet"
    last = lines[-1]
    told = [f"{last['step']:,} of {config['steps']:,} steps of {config['batch_size']}"]
    told += [f"epoch {last['epoch']}", f"{last['corrupt']} pairs replaced", f"{last['skipped']} steps skipped"]
    if "mfu" in last:
        told.append(f"MFU {last['mfu']:.0%}")
    return ", ".join(told)


def _series(lines: Sequence[Mapping[str, Any]], name: str, place: int | None = None) -> list[Point]:
    """(step, line[name]), or its element `place`, where there is a finite number."""
    found = [(line["step"], line.get(name)) for line in lines]
    if place is not None:
        found = [(step, values and values[place]) for step, values in found]
    return [(step, number) for step, number in found if number is not None and math.isfinite(number)]


def _named(lines: Sequence[Mapping[str, Any]], names: dict[str, str]) -> dict[str, list[Point]]:
    return {title: points for title, name in names.items() if (points := _series(lines, name))}


def thinned(points: list[Point], most: int = POINTS) -> list[Point]:
    """Means of runs of neighbours, so that a long curve is drawn with `most` points at most."""
    size = -(-len(points) // most)
    runs = [points[first : first + size] for first in range(0, len(points), max(1, size))]
    return [(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs]


def _chart(title: str, series: dict[str, list[Point]]) -> str:
    drawn = {name: thinned(points) for name, points in series.items() if points}
    if not drawn:
        return ""
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    left, right, low, high = min(steps), max(max(steps), min(steps) + 1), min(values), max(values)
    if low == high:  # a level line is drawn in the middle
        low, high = low - (abs(low) or 1), high + (abs(high) or 1)

    def height(value: float) -> float:
        return HEIGHT - (HEIGHT - 8) * (value - low) / (high - low)

    def place(point: Point) -> str:
        x = MARGIN + (WIDTH - 4 - MARGIN) * (point[0] - left) / (right - left)
        return f"{x:.1f},{height(point[1]):.1f}"

    shapes = [_grid(value, height(value)) for value in (low, (low + high) / 2, high)]
    for (_, points), colour in zip(drawn.items(), COLOURS, strict=False):
        line = " ".join(place(point) for point in points)
        shapes.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
        if len(points) < FEW:
            ends = (place(point).split(",") for point in points)
            shapes += [f"<circle cx='{x}' cy='{y}' r='3' fill='{colour}'/>" for x, y in ends]
    for step, x, anchor in ((left, MARGIN, "start"), (right, WIDTH, "end")):
        shapes.append(f"<text x='{x}' y='{HEIGHT + 16}' text-anchor='{anchor}'>step {step:,}</text>")
    svg = f"<svg viewBox='0 0 {WIDTH} {HEIGHT + 20}' width='100%' role=img>{''.join(shapes)}</svg>"
    return f"<h2>{for_html(title)}</h2>{_legend(drawn)}{svg}"


def _grid(value: float, y: float) -> str:
    line = f"<line x1='{MARGIN}' x2='{WIDTH}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e4e8ee'/>"
    return f"{line}<text x='{MARGIN - 8}' y='{y + 4:.1f}' text-anchor='end'>{value:.4g}</text>"


def _legend(drawn: dict[str, list[Point]]) -> str:
    """The last value of each curve, with its name where there are several."""
    told = [
        f"<span style='color:{colour}'>&#9632;</span> {for_html(name) if len(drawn) > 1 else 'last'}: "
        f"{points[-1][1]:.4g}"
        for (name, points), colour in zip(drawn.items(), COLOURS, strict=False)
    ]
    return f"<p class=note>{' &nbsp; '.join(told)}</p>"


def _strips(run: Path) -> str:
    """Of the last validation: the first of the pairs held out, and of each suite."""
    folders = sorted((run / PLACE).glob("step-*"))
    if not folders:
        return ""
    parts = []
    for folder in (folders[-1], *sorted(path for path in folders[-1].iterdir() if path.is_dir())):
        figures = [_strip(path) for path in sorted(folder.glob("*.png"))[:STRIPS]]
        if figures:
            title = "Pairs held out" if folder is folders[-1] else folder.name
            parts.append(f"<h2>{for_html(title)}, restored at step {int(folders[-1].name[5:]):,}</h2>")
            parts.append(f"<p class=note>LQ, proxy, output, and HQ where there is one</p>{''.join(figures)}")
    return "".join(parts)


def _strip(path: Path) -> str:
    pixels = cv2.imread(str(path))
    if pixels is None:
        return ""
    if pixels.shape[1] > STRIP_PX:
        height = max(1, round(pixels.shape[0] * STRIP_PX / pixels.shape[1]))
        pixels = cv2.resize(pixels, (STRIP_PX, height), interpolation=cv2.INTER_AREA)
    picture = data_url(pixels[..., ::-1], "jpeg", 92)  # OpenCV has read it
    name = for_html(path.stem)
    return f"<p><img alt='{name}' width='100%' src='{picture}'><br>{name}</p>"


def _settings(config: Mapping[str, Any]) -> str:
    text = for_html(json.dumps(config, indent=1))
    return f"<details><summary>Settings</summary><pre>{text}</pre></details>"
