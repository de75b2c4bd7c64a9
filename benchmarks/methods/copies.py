"""Outputs whose pixels are those of another method, of another seed, or of bicubic upscaling.

Every seed is compared with every other one: over a few images that both have, and over all of them where those are
equal, so that a sentence says of how many images it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file

COMPARED = 5  # images, evenly spaced among those that both have
NEAR = 0.5  # levels of 255 on average: a JPEG of the upscaled input is not missed for its rounding
Run = tuple[str, str]  # method, seed


@dataclass(frozen=True)
class OutputFile:
    """`reason` is None, or why the file cannot be scored at all. `width` and `height` upright, in pixels."""

    path: Path
    sha256: str
    width: int
    height: int
    format: str
    remarks: tuple[str, ...]
    reason: str | None = None


Files = Mapping[str, OutputFile]  # by id


def find_copies(
    methods: Mapping[str, Mapping[str, Files]], lq: Mapping[str, Path], ids: tuple[str, ...]
) -> dict[str, list[str]]:
    """method -> sentences. `methods`: method -> seed -> id -> file; `lq`: id -> input, as far as they are at hand."""
    runs = {(name, seed): files for name, seeds in methods.items() for seed, files in seeds.items()}
    looks = _Looks(lq)
    bicubic = {run: _tell_bicubic(files, lq, ids, looks) for run, files in runs.items()}
    counts = {pair: _count_equal(runs[pair[0]], runs[pair[1]], ids, looks) for pair in combinations(runs, 2)}
    equal = {pair: count for pair, count in counts.items() if count}
    found = {}
    for name, seeds in methods.items():
        told = {(seed, text) for seed in seeds if (text := bicubic[name, seed])}
        found[name] = _by_sentence(told, list(seeds))
        for (first, second), count in sorted(equal.items()):
            if first[0] == second[0] == name:
                part = _part(count, max(_count_usable(runs[first], ids), _count_usable(runs[second], ids)))
                found[name].append(f"seeds {first[1]} and {second[1]} are identical{part}")
        for other in methods:
            most: dict[Run, int] = {}  # of each seed with any of the other's
            for pair, count in equal.items():
                for run, twin in (pair, pair[::-1]):
                    if (run[0], twin[0]) == (name, other) and other != name:
                        most[run] = max(count, most.get(run, 0))
            mine = {
                (run[1], f"identical to {other}{_part(count, _count_usable(runs[run], ids))}")
                for run, count in most.items()
            }
            found[name] += _by_sentence(mine, list(seeds))
    return found


def _part(count: int, of: int) -> str:
    return "" if count == of else f" in {count} of {of} images"


def _by_sentence(told: set[Run], seeds: list[str]) -> list[str]:
    """(seed, sentence) as sentences, each with the seeds that it is of where it is not of all."""
    whole = sorted({text for _, text in told})
    return [f"{_which({seed for seed, text in told if text == sentence}, seeds)}{sentence}" for sentence in whole]


def _which(mine: set[str], seeds: list[str]) -> str:
    """`seed 2: ` where a sentence is of some seeds alone."""
    chosen = [seed for seed in seeds if seed in mine]
    return "" if len(chosen) == len(seeds) else f"seed{'s' * (len(chosen) > 1)} {', '.join(chosen)}: "


class _Looks:
    """What is asked of the pixels of a file, each decoded once."""

    def __init__(self, lq: Mapping[str, Path]) -> None:
        self._lq = lq
        self._known: dict[tuple[Path, str], tuple[str | None, float]] = {}

    def at(self, file: OutputFile, id_: str) -> tuple[str | None, float]:
        """(digest of the pixels, None where they cannot be read; how far they are from the upscaled input: the mean
        absolute difference in levels of 255)."""
        key = file.path, id_
        if key not in self._known:
            self._known[key] = self._look(file.path, self._lq.get(id_))
        return self._known[key]

    def _look(self, path: Path, lq: Path | None) -> tuple[str | None, float]:
        try:
            pixels = pixels_apart(read_file(path))
        except ImageError:
            return None, math.inf
        digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
        return digest, math.inf if lq is None else _distance_to_upscaled(pixels, lq)


def _usable(files: Files, others: Container[str], ids: tuple[str, ...]) -> list[str]:
    return [id_ for id_ in ids if id_ in files and id_ in others and not files[id_].reason]


def _count_usable(files: Files, ids: tuple[str, ...]) -> int:
    return len(_usable(files, files, ids))


def _spaced(there: list[str]) -> list[str]:
    return [there[int(k)] for k in np.linspace(0, len(there) - 1, min(COMPARED, len(there)))]


def _tell_bicubic(files: Files, lq: Mapping[str, Path], ids: tuple[str, ...], looks: _Looks) -> str | None:
    """A sentence where the outputs are the upscaled inputs, or as near to them as a JPEG of them is."""
    there = _usable(files, lq, ids)
    distances = [looks.at(files[id_], id_)[1] for id_ in _spaced(there)]
    if not distances or max(distances) >= NEAR:
        return None
    mean = sum(distances) / len(distances)
    if mean:
        over = f"{len(distances)} image{'s' * (len(distances) > 1)}"
        return f"{mean:.2g} of 255 levels from bicubic upscaling, on average over {over}"
    count = sum(looks.at(files[id_], id_)[1] == 0 for id_ in there)
    return f"identical to bicubic upscaling{_part(count, _count_usable(files, ids))}"


def _count_equal(first: Files, second: Files, ids: tuple[str, ...], looks: _Looks) -> int:
    """Of how many images both have the same pixels; 0 where one of those that are looked at first differs."""
    there = _usable(first, {id_ for id_, file in second.items() if not file.reason}, ids)

    def same(id_: str) -> bool:
        if first[id_].sha256 == second[id_].sha256:
            return True
        digest = looks.at(first[id_], id_)[0]
        return digest is not None and digest == looks.at(second[id_], id_)[0]

    return sum(map(same, there)) if all(map(same, _spaced(there))) else 0


def _distance_to_upscaled(image: np.ndarray, lq: Path) -> float:
    try:
        pixels = pixels_apart(read_file(lq))
    except ImageError:
        return math.inf
    upscaled = Image.fromarray(pixels).resize(image.shape[1::-1], Image.Resampling.BICUBIC)
    return float(np.abs(np.asarray(upscaled, np.int16) - image).mean())
