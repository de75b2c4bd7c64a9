"""Does the filter help? The same small network, trained on sets that differ in their tiles alone: docs/howto/ablate.md.
python examples/ablate_filter.py PHOTOS OUT STEPS holds out half of the photos, cuts the rest into tiles, filters them,
draws sets of one size from what the filter says of them, trains a network on each for STEPS, three times, and writes
OUT/ablation.json. Needs lucidflux[networks] and scipy."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from train_compact import CROP, PRESET, SCALE, cut_tiles, train

from benchmarks.leaderboard.statistics import Bootstrap, interval, win_rate
from cli import app, data_app
from lucidflux_data import ImageError, RealESRGANPairs, decode, measure_bytes
from lucidflux_data.errors import InputError, LucidFluxError
from lucidflux_data.measures.near_duplicates import group_near, phash
from lucidflux_data.selection.config import RulesConfig

SIZE, SEEDS, RADIUS = 96, (1, 2, 3), 12  # tiles in a set; a draw and a training each; bits that make photos one
SIDE, MOST, HELD_MOST, HELD_SEED = 192, 256, 8, 0  # at most so many tiles of a photo: of SIDE pixels, of CROP held out
METRICS = ("psnr", "ssim")
SHARP = RulesConfig().min_laplacian_variance
QUALITY = ("too_blurry", "too_sharp", "too_flat", "low_iqa")  # what rejects a tile for how it looks
EVERY = (  # rules that nothing fails, and the cut alone
    "--set rules.min_laplacian_variance=0 --set rules.max_laplacian_variance=1e9 --set rules.max_flat_fraction=1"
    " --top-fraction 0.8"
)
COMPARED = (("kept", "random"), ("rejected", "random"), ("all-but-worst-fifth", "random"), ("kept", "rejected"))
Pools = dict[str, dict[str, str]]  # set -> key of a tile -> its file


def distinct(paths: list[Path]) -> list[Path]:
    """One photo of those that show the same, in order of the sha256 of their bytes: an order that looks at no score."""
    order, hashes = [], []
    for photo in sorted(paths, key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest()):
        try:
            image = decode(photo.read_bytes())
        except ImageError as error:
            print(f"{photo} is left out: {error}")
            continue
        if min(image.shape[:2]) < SIDE:
            print(f"{photo} is left out: no tile of {SIDE} pixels is in it")
            continue
        order.append(photo)
        hashes.append(phash(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)))
    toned = [number for number, tone in enumerate(hashes) if tone is not None]  # a picture of one tone has no hash
    first = group_near(np.array([hashes[number] for number in toned], np.uint64), RADIUS)
    again = {number for place, number in enumerate(toned) if first[place] != place}
    return [photo for number, photo in enumerate(order) if number not in again]


def pools() -> Pools:
    """What a set is drawn from, by two ledgers of the same tiles: that of the filter, and one whose only cut is the
    worst fifth of the metric. Copies and tiles that do not open are in none."""
    for command in ("score candidates --out run --preset demo", "select run", f"select run --out fifth {EVERY}"):
        data_app([*command.split(), "--executor", "local"], standalone_mode=False)
    ledger, fifth = (pq.read_table(f"{run}/selected.parquet").to_pylist() for run in ("run", "fifth"))
    looked_at = [row for row in ledger if row["keep"] or row["reason"] in QUALITY]
    rows = {
        "kept": [row for row in looked_at if row["keep"]],
        "random": looked_at,
        "rejected": [row for row in looked_at if not row["keep"]],
        "all-but-worst-fifth": [row for row in fifth if row["keep"]],
    }
    return {name: {row["key"]: row["source_key"] for row in some} for name, some in rows.items()}


def draw(pool: dict[str, str], seed: int) -> list[str]:
    """SIZE files of a pool, at random by key and seed."""
    if len(pool) < SIZE:
        raise InputError(f"a set of {SIZE} tiles is to be drawn from {len(pool)}: give more photos")
    order = sorted(pool, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).hexdigest())
    return sorted(pool[key] for key in order[:SIZE])


def fit(name: str, seed: int, files: list[str], steps: int) -> torch.nn.Module:
    """The network of one set and seed, which also draws its first weights, its crops and its degradations."""
    folder = Path("sets") / name / f"seed-{seed}"
    folder.mkdir(parents=True)
    for file in files:
        os.link(f"candidates/{file}", folder / file)
    torch.manual_seed(seed)
    pairs = RealESRGANPairs(folder, PRESET, seed, [f"size={CROP}"])
    network: torch.nn.Module = train(pairs, lambda done: 1 - done / steps)
    return network


def restore(network: torch.nn.Module, held: list[tuple[str, torch.Tensor]], folder: Path) -> None:
    folder.mkdir(parents=True)
    for file, lq in held:
        with torch.no_grad():
            pixels = network(lq[None] / 255)[0].clamp(0, 1).mul(255).round().byte()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / file)


def write_held() -> list[tuple[str, torch.Tensor]]:
    """(file, LQ) of each pair of the photos that were held out; lq/ and hq/ have their pixels."""
    pairs = RealESRGANPairs("held", PRESET, HELD_SEED, [f"size={CROP}"])
    held = []
    for row, pair in zip(pairs.rows, (pairs[number] for number in range(len(pairs))), strict=True):
        file = Path(row["uri"]).name
        for kind in ("lq", "hq"):
            Image.fromarray(pair[kind].permute(1, 2, 0).numpy()).save(f"{kind}/{file}")
        held.append((file, pair["lq"]))
    return held


def by_photo(tiles: set[str]) -> dict[str, dict[str, np.ndarray]]:
    """Metric -> method -> (seeds, photos): the mean over those of the tiles that are of each photo."""
    values: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
    for row in pq.read_table("bench/per_image.parquet").to_pylist():
        if row["value"] is None or not np.isfinite(row["value"]):
            raise InputError(f"{row['metric']} of {row['id']} is no number: {row['reason'] or row['value']}")
        if f"{row['id']}.png" in tiles:
            place = values.setdefault((row["metric"], row["method"]), {})
            place.setdefault((str(row["seed"]), row["id"].partition("+")[0]), []).append(row["value"])
    scores: dict[str, dict[str, np.ndarray]] = {metric: {} for metric in METRICS}
    for (metric, method), by_key in values.items():
        seeds, photos = (sorted({key[part] for key in by_key}) for part in (0, 1))
        scores[metric][method] = np.array([[np.mean(by_key[seed, photo]) for photo in photos] for seed in seeds])
    return scores


def compare(scores: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """Pair of sets -> metric -> mean difference over photos, its 95% interval over photos and seeds in pairs, and the
    share of the photos on which the first is better."""
    told: dict[str, dict[str, list[float]]] = {}
    for one, other in COMPARED:
        for metric in METRICS:
            first, second = scores[metric][one], scores[metric][other]
            span = interval(Bootstrap(first.shape[1]).means(first - second))
            better = win_rate(first.mean(axis=0), second.mean(axis=0), sign=1)
            told.setdefault(f"{one} - {other}", {})[metric] = [float((first - second).mean()), *span, better]
    return told


def report(drawn_from: Pools, steps: int) -> dict[str, object]:
    """What came out, over all tiles that are held out and over those apart that the rule on blur keeps, and rejects."""
    given = ["bench", "eval", "--inputs", "lq", "--gt", "hq", "--metrics", ",".join(METRICS), "--out", "bench"]
    app([*given, "--outputs", "outputs"], standalone_mode=False)
    held = {path.name for path in Path("hq").iterdir()}
    sharp = {name for name in held if measure_bytes((Path("hq") / name).read_bytes()).laplacian_variance >= SHARP}
    told: dict[str, object] = {
        "steps": steps,
        "photos to train on": photos(path.name for path in Path("candidates").iterdir()),
        "tiles in a set": SIZE,
        "drawn from": {name: len(pool) for name, pool in drawn_from.items()},
        "photos in a set": {name: [photos(draw(pool, seed)) for seed in SEEDS] for name, pool in drawn_from.items()},
    }
    for part, tiles in {"all": held, "sharp": sharp, "smooth": held - sharp}.items():
        scores = by_photo(tiles) if tiles else {}
        means = {metric: {name: float(one.mean()) for name, one in some.items()} for metric, some in scores.items()}
        counts = {"tiles": len(tiles), "photos": photos(tiles)}
        told[part] = {**counts, "means": means, "differences": compare(scores) if scores else {}}
    return told


def photos(tiles: Iterable[str]) -> int:
    return len({tile.partition("+")[0] for tile in tiles})


def prepare(folder: Path, out: Path) -> tuple[list[tuple[str, torch.Tensor]], Pools]:
    """Goes to OUT. The pairs that are held out, and what sets are drawn from."""
    order = distinct(sorted(folder.absolute().iterdir()))
    held_out, others = order[: len(order) // 2], order[len(order) // 2 :]
    for name in ("candidates", "held", "lq", "hq", "outputs"):
        (out / name).mkdir(parents=True)
    os.chdir(out)
    cut_tiles(others, SIDE, MOST, "candidates")
    cut_tiles(held_out, CROP, HELD_MOST, "held")
    return write_held(), pools()


def main(folder: Path, out: Path, steps: int) -> None:
    torch.set_num_threads(1)
    held, drawn_from = prepare(folder, out)
    for seed in SEEDS:
        for name, pool in drawn_from.items():
            network = fit(name, seed, draw(pool, seed), steps)
            restore(network, held, Path("outputs") / name / f"seed-{seed}")
    app(f"bench infer bicubic --inputs lq --out outputs --scale {SCALE}".split(), standalone_mode=False)
    text = json.dumps(report(drawn_from, steps), indent=1)
    Path("ablation.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except LucidFluxError as error:
        sys.exit(f"{error}")
