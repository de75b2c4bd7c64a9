"""`view`: one HTML file with pairs side by side under a slider, and the plan of each. No server, no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from lucidflux_data.codecs.encoding import data_url
from lucidflux_data.escapes import for_html
from lucidflux_data.images import upsample_lq
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

SIDE = 448  # pixels of a thumbnail; a page of 24 pairs then has some 3 MB
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1400px;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.4rem;margin-bottom:0}.note{color:#5b6775}.sheet{display:flex;flex-wrap:wrap;gap:1.2rem}
figure{margin:0;width:448px}.pair{position:relative;width:448px;height:448px;--x:50%}
.pair img{position:absolute;inset:0;width:448px;height:448px}
.pair img+img{clip-path:inset(0 0 0 var(--x))}.pair i{position:absolute;top:0;bottom:0;left:var(--x);width:1px;
background:#fff;mix-blend-mode:difference}.pair input{position:absolute;inset:0;width:100%;height:100%;
margin:0;opacity:0;cursor:ew-resize}figcaption{font-size:12px;word-break:break-all}code{font-size:11px;white-space:pre-wrap}
"""


def make_view(folder: Folder, limit: int) -> bytes:
    """The page as UTF-8 bytes: `limit` pairs, spread evenly over the set and over the variants."""
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    manifest = shards.read_manifest(folder)
    figures = []
    for name, key, rows in _spread(folder, manifest, limit, config.variants):
        members = pair_samples.read_sample(folder, name, rows)
        record = parse_json(members["json"])
        hq = pairs.hq_pixels(record, pair_samples.stored_hq(members, record, run["sources"]), config.degrade.crop)
        figures.append(_figure(key, record, hq, pixels_apart(members["lq.png"])))
    label = for_html(run["label"])
    head = (
        f"<h1>{manifest['samples']:,} pairs: {label}</h1><p class=note>{len(figures)} of them, at {SIDE} pixels; "
        "left of the slider the LQ (brought to size bicubically), right of it the HQ.</p>"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{label}</title><style>{STYLE}</style>{head}"
        f"<div class=sheet>{''.join(figures)}</div></html>\n"
    ).encode()


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


def _figure(key: str, record: pairs.PairRecord, hq: np.ndarray, lq: np.ndarray) -> str:
    large = upsample_lq(lq, *hq.shape[:2])
    steps = for_html("\n".join(step_text(step) for step in record["plan"]["steps"]))
    cut = record["cut"]
    rest = f"box {cut['box']} of {cut['source'][0]}x{cut['source'][1]}, try {cut['tries']}" + (
        ", flipped" if record["plan"]["flip"] else ""
    )
    name = for_html(f"{key}  {record.get('source_key', '')}")
    return (
        f"<figure><div class=pair><img alt=LQ src={_uri(large)}><img alt=HQ src={_uri(hq)}><i></i>"
        "<input type=range min=0 max=100 value=50 aria-label=slider "
        "oninput=\"this.parentNode.style.setProperty('--x',this.value+'%')\"></div>"
        f"<figcaption>{name}<br>{for_html(rest)}<br><code>{steps}</code></figcaption></figure>"
    )


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
