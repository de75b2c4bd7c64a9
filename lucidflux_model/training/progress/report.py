"""report.html of a training run: what it is, its curves, the last strips. One file, no server, no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from lucidflux_data.codecs.encoding import data_url
from lucidflux_data.errors import ImageError
from lucidflux_data.page.charts import Chart, short
from lucidflux_data.page.render import CHARTS, render_page
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.training.config import BINS
from lucidflux_model.training.progress.log import Step, read_metrics
from lucidflux_model.training.progress.validation import PLACE
from lucidflux_model.training.run_file import CHANGES
from lucidflux_model.weights.tensors import MARK

REPORT = "report.html"
POINTS = 1000  # of a curve, which zooms
STRIPS, STRIP_PX = 8, 1920  # shown of each set, and how wide at most; the files in validation/ are whole
Point = tuple[int, float]


class Strip(TypedDict):
    """LQ, proxy, output and HQ of an image. `picture`: a data url."""

    name: str
    picture: str


def make_report(run: Path) -> bytes:
    """From run.json, metrics.jsonl and validation/ of a run that has begun."""
    about = parse_json((run / "run.json").read_text())
    lines = read_metrics(run)
    charts = {f"chart-{number}": chart for number, chart in enumerate(_make_charts(lines))}
    step, strips = _last_strips(run)
    return render_page(
        Path(__file__).parent / "report.html.j2",
        {"charts": charts},
        CHARTS,
        label=about["label"],
        done=lines[-1]["step"] if lines else 0,
        asked=about["config"]["steps"],
        facts=_list_facts(lines, about["config"]),
        suites=", ".join(about.get(MARK, [])),
        changes=about.get(CHANGES, []),
        charts=charts,
        step=step,
        strips=strips,
        settings=json.dumps(about["config"], indent=1),
    )


def _list_facts(lines: list[Step], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not lines:
        return []
    last = lines[-1]
    facts = {
        "Images a step": f"{config['batch_size']:,}",
        "Epoch": f"{last['epoch']:,}",
        "Loss, last": "not finite" if last["loss"] is None else short(last["loss"]),
    }
    measured = [line["validation"] for line in lines if "validation" in line]
    if measured and "psnr" in measured[-1]:
        facts["PSNR, last"] = f"{measured[-1]['psnr']:.2f} dB"
    facts |= {"Pairs replaced": f"{last['corrupt']:,}", "Steps skipped": f"{last['skipped']:,}"}
    if "mfu" in last:
        facts["MFU"] = f"{last['mfu']:.0%}"
    return list(facts.items())


def _make_charts(lines: list[Step]) -> list[Chart]:
    bins = [f"{i / BINS:g} to {(i + 1) / BINS:g}" for i in range(BINS)]
    measured = [{"step": line["step"], **line["validation"]} for line in lines if "validation" in line]
    weights = "ema_loss_by_sigma" if measured and "ema_loss" in measured[0] else "loss_by_sigma"
    losses = {"weights": "loss", "moving average": "ema_loss"}
    made = [
        _make_chart("Loss", "of a step", {"a step": _series(lines, "loss")}),
        _make_chart("Loss by sigma", "from clean to noise",
                    {name: _series(lines, "loss_by_sigma", i) for i, name in enumerate(bins)}),
        _make_chart("Validation loss", "of pairs held out", _named(measured, losses)),
        _make_chart("Validation loss by sigma", "from clean to noise",
                    {name: _series(measured, weights, i) for i, name in enumerate(bins)}),
        _make_chart("PSNR of restored pairs", "dB", _named(measured, {"psnr": "psnr"})),
        *_of_suites(lines),
        _make_chart("Norm of the gradient", "before clipping", {"norm": _series(lines, "grad_norm")}),
        _make_chart("Learning rate", "", {"rate": _series(lines, "lr")}),
        _make_chart("Images a second", "process 0", {"images": _series(lines, "images_per_s")}),
    ]  # fmt: skip
    return [chart for chart in made if chart is not None]


def _of_suites(lines: list[Step]) -> list[Chart | None]:
    """A curve for each measure of each benchmark suite."""
    found: dict[tuple[str, str], list[Point]] = {}
    for line in lines:
        for suite, figures in (line["validation"].get("suites", {}) if "validation" in line else {}).items():
            for name, value in (("psnr", figures.get("psnr")), ("niqe", figures.get("niqe"))):
                if value is not None:
                    found.setdefault((suite, name), []).append((line["step"], value))
    notes = {"psnr": "PSNR, dB", "niqe": "NIQE, lower is better"}
    return [_make_chart(suite, notes[name], {name: points}) for (suite, name), points in found.items()]


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


def _make_chart(title: str, note: str, series: Mapping[str, list[Point]]) -> Chart | None:
    """None where no series has a point."""
    drawn = {name: dict(thinned(points)) for name, points in series.items() if points}
    if not drawn:
        return None
    steps = sorted({step for points in drawn.values() for step in points})
    spoken = [
        f"{name if len(drawn) > 1 else 'first'} {short(first)}, last {short(last)}"
        for name, points in drawn.items()
        for first, *_, last in [list(points.values()) * 2]
    ]
    return {
        "kind": "lines",
        "title": title,
        "note": note,
        "spoken": f"Steps {steps[0]:,} to {steps[-1]:,}: {'; '.join(spoken)}",
        "x_title": "step",
        "log": False,
        "x": list(steps),
        "series": [
            {"name": name, "values": [_digits(points.get(step)) for step in steps]} for name, points in drawn.items()
        ],
        "marks": [],
    }


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _last_strips(run: Path) -> tuple[int, dict[str, list[Strip]]]:
    """(step, set -> strips) of the last validation: the first of the pairs held out, and of each suite."""
    folders = sorted((run / PLACE).glob("step-*"))
    if not folders:
        return 0, {}
    last = folders[-1]
    found = {}
    for folder in (last, *sorted(path for path in last.iterdir() if path.is_dir())):
        strips = [strip for path in sorted(folder.glob("*.png"))[:STRIPS] if (strip := _read_strip(path)) is not None]
        if strips:
            found["Pairs held out" if folder is last else folder.name] = strips
    return int(last.name[5:]), found


def _read_strip(path: Path) -> Strip | None:
    try:
        pixels = cv2.imdecode(np.frombuffer(read_file(path), np.uint8), cv2.IMREAD_COLOR)
    except (ImageError, cv2.error):  # the second: of an empty file
        return None
    if pixels is None:
        return None
    if pixels.shape[1] > STRIP_PX:
        height = max(1, round(pixels.shape[0] * STRIP_PX / pixels.shape[1]))
        pixels = cv2.resize(pixels, (STRIP_PX, height), interpolation=cv2.INTER_AREA)
    return {"name": path.stem, "picture": data_url(pixels[..., ::-1], "jpeg", 92)}  # OpenCV has read it
