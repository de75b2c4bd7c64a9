"""`view`: one HTML file with pairs side by side under a slider, and the plan of each. No server, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from lucidflux_data.codecs.encoding import data_url
from lucidflux_data.images import upsample_lq
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.page.render import render_page
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

SIDE = 448  # pixels of a thumbnail; a page of 24 pairs then has some 3 MB


class Shown(TypedDict):
    """A pair of the page. `lq`, `hq`: data urls; `steps`: a line each; `way`: their names in a row."""

    key: str
    source: str
    lq: str
    hq: str
    cut: str
    way: str
    steps: list[str]


def make_view(folder: Folder, limit: int) -> bytes:
    """The page as UTF-8 bytes: `limit` pairs, spread evenly over the set and over the variants."""
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    manifest = shards.read_manifest(folder)
    shown = []
    for name, key, rows in _spread(folder, manifest, limit, config.variants):
        members = pair_samples.read_sample(folder, name, rows)
        record = parse_json(members["json"])
        hq = pairs.hq_pixels(record, pair_samples.stored_hq(members, record, run["sources"]), config.degrade.crop)
        shown.append(_show(key, record, hq, pixels_apart(members["lq.png"])))
    size, scale = config.degrade.size, config.degrade.scale
    facts = {
        "Variants": f"{config.variants:,}",
        "HQ": f"{size} px",
        "LQ": f"{size // scale} px",
    }
    here = Path(__file__).parent
    return render_page(
        here / "view.html.j2",
        scripts=[here / "view.js"],
        label=run["label"],
        facts=list(facts.items()),
        pairs=manifest["samples"],
        images=manifest["samples"] // config.variants,
        bytes=manifest["bytes"],
        shown=shown,
        side=SIDE,
    )


def _spread(
    folder: Folder, manifest: shards.Manifest, limit: int, variants: int
) -> list[tuple[str, str, list[shards.IndexRow]]]:
    """(shard, key, index rows) of evenly spaced samples, the variants by turns."""
    total = manifest["samples"]
    count = min(limit, total)
    wanted = sorted({number * total // count // variants * variants + number % variants for number in range(count)})
    found, first = [], 0
    for entry in manifest["shards"]:
        here = [number - first for number in wanted if first <= number < first + entry["samples"]]
        if here:
            samples = list(pair_samples.samples_of_index(folder, entry["name"]).items())
            found += [(entry["name"], *samples[number]) for number in here]
        first += entry["samples"]
    return found


def _show(key: str, record: pairs.PairRecord, hq: np.ndarray, lq: np.ndarray) -> Shown:
    cut, steps = record["cut"], record["plan"]["steps"]
    place = f"box {', '.join(map(str, cut['box']))} of {cut['source'][0]} × {cut['source'][1]}, try {cut['tries']}"
    return {
        "key": key,
        "source": record.get("source_key", ""),
        "lq": _uri(upsample_lq(lq, *hq.shape[:2])),
        "hq": _uri(hq),
        "cut": place + (", flipped" if record["plan"]["flip"] else ""),
        "way": " → ".join(step["op"].replace("_", " ") for step in steps),
        "steps": [step_text(step) for step in steps],
    }


def step_text(step: Mapping[str, Any]) -> str:
    """A step in a line: `blur aniso 13 sigma_x=1.20 sigma_y=0.44 rotation=-2.10`."""
    shown = {name: value for name, value in step.items() if name not in ("op", "stream", "kernel", "sampling")}
    kernel = step.get("kernel", {})
    head = f"{step['op']} {kernel['type']} {kernel['size']}" if kernel else step["op"]
    shown |= {name: value for name, value in kernel.items() if name not in ("type", "size")}
    return " ".join(
        [
            head,
            *(
                f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in shown.items()
            ),
        ]
    )


def _uri(pixels: np.ndarray) -> str:
    if pixels.shape[0] > SIDE:
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return data_url(pixels, "jpeg", 90)
