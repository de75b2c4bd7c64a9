"""Limits of `strict` and tiles of the firewall, chosen on one half of the photos and reported on the other: `held-out`.

Both ways round, so that every photo is reported on once, by limits that it had no part in. The preset is not changed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import typer

from benchmarks.throughput.quality.curation import COPIES, DAMAGES, Damage, read_photos
from benchmarks.throughput.timing import Facts, print_json
from lucidflux_data.measures import fingerprints
from lucidflux_data.measures.fingerprints import fingerprint, fingerprint_file, make_firewall
from lucidflux_data.selection.config import make_config

app = typer.Typer()
LOST = 5  # per cent of the clean photos that a limit may cost on the half that it is chosen on
RULES = {
    "blockiness": "max_blockiness",
    "spectral_cutoff": "min_spectral_cutoff",
    "fixed_sharpness": "min_fixed_sharpness",
}
TILES = (1, 2, 3, 4, 5)
Photos = dict[str, np.ndarray]


class RuleReport(TypedDict):
    """One rule, by limits that the reported half had no part in, beside the preset's own."""

    chosen: list[float]  # the limit of each way
    clean_lost: float  # shares
    preset: float
    clean_lost_by_preset: float
    found: dict[str, list[float]]  # damage -> share that is found by the chosen limits, by the preset's


class Trial(TypedDict):
    """The firewall with one number of tiles."""

    recall: dict[str, str]  # kind of copy -> `found of copies`
    others: int  # photos of other pictures
    other_sizes: int  # of pictures of the benchmark: right hits
    taken_for_the_suite: dict[str, str]  # photo -> image that it is mistaken for


class Way(TypedDict):
    """Tiles that were chosen on one half, on the other."""

    chosen_tiles: int
    tiles_in_force: int
    with_chosen: Trial
    with_those_in_force: Trial


@app.command("held-out")
def held_out_command(
    images: Annotated[Path, typer.Option(help="A folder of real photos.")],
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """What rules and firewall find on photos that their limits were not chosen on."""
    photos = read_photos(images)
    halves = _halves(photos)
    ways = [(halves[0], halves[1]), (halves[1], halves[0])]
    result: Facts = {"photos": [len(half) for half in halves], "rules": _rules(ways), "firewall": _firewall(ways)}
    print_json(result, out)


def _halves(photos: Photos) -> tuple[Photos, Photos]:
    """By the hash of the picture's name; sizes of one wallpaper stay together."""
    names = {name: _picture(name) for name in photos}
    order = sorted(set(names.values()), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    first = set(order[::2])
    chosen = {name: image for name, image in photos.items() if names[name] in first}
    return chosen, {name: image for name, image in photos.items() if name not in chosen}


def _picture(name: str) -> str:
    """Of `wallpapers/Autumn/contents/images/1280x1024.jpg`: Autumn; of `Elephants_3840x2160.jpg`: Elephants."""
    return name.partition("wallpapers/")[2].partition("/")[0] or re.sub(r"_\d+x\d+$", "", Path(name).stem)


def _rules(ways: list[tuple[Photos, Photos]]) -> dict[str, RuleReport]:
    """A limit loses LOST% of the clean photos of one half; what it loses and finds on the other, counts of both ways.

    Beside it the same of the preset's own limit, over all photos.
    """
    result: dict[str, RuleReport] = {}
    for measure, rule in RULES.items():
        score, damages = DAMAGES[measure]
        clean = [{name: score(image) for name, image in half.items()} for half, _ in ways]
        limits = [float(np.percentile(list(values.values()), LOST)) for values in clean]
        own = getattr(make_config("strict").rules, rule) * (-1 if rule.startswith("max_") else 1)
        every = [value for values in clean for value in values.values()]
        reports = list(zip(limits, reversed(clean), strict=True))  # a limit, and the half that it was not chosen on
        lost = sum(value < limit for limit, values in reports for value in values.values())
        row: RuleReport = {
            "chosen": [round(abs(limit), 3) for limit in limits],
            "clean_lost": round(float(lost) / len(every), 3),
            "preset": abs(own),
            "clean_lost_by_preset": round(float(np.mean(np.array(every) < own)), 3),
            "found": {},
        }
        for name, damage in damages.items():
            damaged = [{name: score(damage(image)) for name, image in half.items()} for half, _ in ways]
            pairs = zip(limits, reversed(damaged), strict=True)
            found = [value < limit for limit, values in pairs for value in values.values()]
            by_preset = [value < own for values in damaged for value in values.values()]
            row["found"][name] = [round(float(np.mean(found)), 3), round(float(np.mean(by_preset)), 3)]
        result[rule] = row
    return result


def _firewall(ways: list[tuple[Photos, Photos]]) -> dict[str, list[Way]]:
    """The fewest tiles without a false hit on one half; copies found and photos mistaken with them on the other."""
    before = fingerprints.MIN_AGREEING
    result: list[Way] = []
    try:
        for chosen_on, reported_on in ways:
            fewest = next(tiles for tiles in TILES if not _try_tiles(chosen_on, tiles, {})["taken_for_the_suite"])
            way: Way = {
                "chosen_tiles": fewest,
                "tiles_in_force": before,
                "with_chosen": _try_tiles(reported_on, fewest, COPIES),
                "with_those_in_force": _try_tiles(reported_on, before, COPIES),
            }
            result.append(way)
    finally:
        fingerprints.MIN_AGREEING = before
    return {"ways": result}


def _try_tiles(photos: Photos, tiles: int, copies: dict[str, Damage]) -> Trial:
    """Every second photo is the benchmark: copies of it that are found, other photos that are taken for it."""
    fingerprints.MIN_AGREEING = tiles
    names = sorted(photos)
    suite, others = names[::2], names[1::2]
    firewall = make_firewall([fingerprint_file([(name, name.encode(), photos[name]) for name in suite], "suite")])
    recall = {}
    for kind, change in copies.items():
        matches = [firewall.match("", fingerprint(change(photos[name]))) for name in suite]
        right = [m is not None and m.image == f"suite/{name}" for m, name in zip(matches, suite, strict=True)]
        recall[kind] = f"{sum(right)} of {len(right)}"
    found = {name: firewall.match("", fingerprint(photos[name])) for name in others}
    hits = {name: match.image.partition("/")[2] for name, match in found.items() if match is not None}
    mistaken = {name: image for name, image in hits.items() if _picture(name) != _picture(image)}
    same = len(hits) - len(mistaken)  # other sizes of a picture of the suite: right hits
    return {"recall": recall, "others": len(others) - same, "other_sizes": same, "taken_for_the_suite": mistaken}
