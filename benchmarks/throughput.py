"""Measures what docs/performance.md states, as ratios inside one run: `throughput.py filter --images FOLDER`.

Everything runs on one pinned core with one thread; the contenders take turns on each image and the median of the paired
ratios is given. This script is exempt from the import rules: it measures every layer.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from lucidflux_data.images import ImageError, decode, luma, probe
from lucidflux_data.niqe import niqe
from lucidflux_data.quality import measure_bytes, measure_luma
from lucidflux_data.sources import list_sources

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def pin() -> None:
    """Pins the process to one core, as a worker is."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)


def plain_measures(pixels: np.ndarray) -> tuple[float, float]:
    """The measures as a script would take them: colour to grey, float64 Laplacian, float64 Sobel patch by patch."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    variance = cv2.Laplacian(grey, cv2.CV_64F).var()
    flat = patches = 0
    for top in range(0, grey.shape[0] - 239, 240):
        for left in range(0, grey.shape[1] - 239, 240):
            patch = grey[top : top + 240, left : left + 240]
            dx = cv2.Sobel(patch, cv2.CV_64F, 1, 0, ksize=3)
            dy = cv2.Sobel(patch, cv2.CV_64F, 0, 1, ksize=3)
            flat += np.sqrt(dx**2 + dy**2).var() < 800
            patches += 1
    return float(variance), flat / max(1, patches)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@app.command("filter")
def filter_command(
    images: Annotated[Path, typer.Option(help="A folder of real photos.")],
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """Decode alone, plain script, our measures, from luma and from JPEG bytes; and NIQE's own time."""
    times: dict[str, list[float]] = {}
    megapixels = []
    paths = [row["uri"].removeprefix("file://") for row in list_sources([str(images)]).table.to_pylist()]
    measure_luma(np.zeros((480, 480), np.uint8))  # compile before the clock starts
    for path in sorted({os.path.realpath(path) for path in paths}):
        data = Path(path).read_bytes()
        try:
            header = probe(data)
            if header.format != "jpeg" or header.mode != "RGB":
                continue
            pixels = decode(data)
        except ImageError:
            continue
        grey = luma(pixels)
        size = grey.size / 1e6
        contenders: dict[str, Callable[[], Any]] = {
            "colour_decode": lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),  # noqa: B023
            "plain_measures": lambda: plain_measures(pixels),  # noqa: B023
            "measures_on_luma": lambda: measure_luma(grey),  # noqa: B023
            "measures_from_bytes": lambda: measure_bytes(data),  # noqa: B023
        }
        megapixels.append(size)
        for name, call in contenders.items():
            times.setdefault(name, []).append(min(seconds(call) for _ in range(repeats)) / size)
    if not megapixels:
        raise typer.BadParameter("no 8-bit JPEG among the images")
    report(times, megapixels, out)


def report(times: dict[str, list[float]], megapixels: list[float], out: Path | None) -> None:
    """Milliseconds a megapixel (medians over the images) and medians of the paired ratios."""

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    square = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    niqe(square)
    result = {
        "images": len(megapixels),
        "megapixels_median": round(statistics.median(megapixels), 2),
        "ms_per_megapixel": {name: round(statistics.median(values) * 1e3, 3) for name, values in times.items()},
        "ratios": {
            "plain_measures / measures_on_luma": round(ratio("plain_measures", "measures_on_luma"), 2),
            "measures_from_bytes / colour_decode": round(ratio("measures_from_bytes", "colour_decode"), 3),
        },
        "niqe_1024_ms": round(min(seconds(lambda: niqe(square)) for _ in range(5)) * 1e3, 1),
        "opencv": cv2.__version__,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    app()
