"""Outputs whose pixels are those of another method, of another seed, or of bicubic upscaling.

Every seed is compared with every other one, over a few images that both have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file

COMPARED = 5  # images, evenly spaced among those that both have
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
    bicubic = {run for run, files in runs.items() if _is_bicubic(files, lq, ids, looks)}
    equal = {pair for pair in combinations(runs, 2) if _are_equal(runs[pair[0]], runs[pair[1]], ids, looks)}
    found = {name: _on_bicubic(name, list(seeds), bicubic) for name, seeds in methods.items()}
    for name, seeds in methods.items():
        found[name] += [
            f"seeds {a[1]} and {b[1]} are identical" for a, b in sorted(equal) if a[0] == b[0] == name
        ]  # fmt: skip
        for other in methods:
            mine = {run[1] for pair in equal for run, twin in (pair, pair[::-1]) if (run[0], twin[0]) == (name, other)}
            if other != name and mine:
                found[name].append(f"{_which(mine, list(seeds))}identical to {other}")
    return found


def _on_bicubic(name: str, seeds: list[str], bicubic: set[Run]) -> list[str]:
    mine = {seed for seed in seeds if (name, seed) in bicubic}
    return [f"{_which(mine, seeds)}identical to bicubic upscaling"] if mine else []


def _which(mine: set[str], seeds: list[str]) -> str:
    """`seed 2: ` where a sentence is of some seeds alone."""
    chosen = [seed for seed in seeds if seed in mine]
    return "" if len(chosen) == len(seeds) else f"seed{'s' * (len(chosen) > 1)} {', '.join(chosen)}: "


class _Looks:
    """What is asked of the pixels of a file, each decoded once."""

    def __init__(self, lq: Mapping[str, Path]) -> None:
        self._lq = lq
        self._known: dict[tuple[Path, str], tuple[str | None, bool]] = {}

    def at(self, file: OutputFile, id_: str) -> tuple[str | None, bool]:
        """(digest of the pixels, None where they cannot be read; whether they are the upscaled input)."""
        key = file.path, id_
        if key not in self._known:
            self._known[key] = self._look(file.path, self._lq.get(id_))
        return self._known[key]

    def _look(self, path: Path, lq: Path | None) -> tuple[str | None, bool]:
        try:
            pixels = pixels_apart(read_file(path))
        except ImageError:
            return None, False
        digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
        return digest, lq is not None and _is_upscaled(pixels, lq)


def _spaced(files: Files, others: Mapping[str, object], ids: tuple[str, ...]) -> list[str]:
    there = [id_ for id_ in ids if id_ in files and id_ in others and not files[id_].reason]
    return [there[int(k)] for k in np.linspace(0, len(there) - 1, min(COMPARED, len(there)))]


def _is_bicubic(files: Files, lq: Mapping[str, Path], ids: tuple[str, ...], looks: _Looks) -> bool:
    chosen = _spaced(files, lq, ids)
    return bool(chosen) and all(looks.at(files[id_], id_)[1] for id_ in chosen)


def _are_equal(first: Files, second: Files, ids: tuple[str, ...], looks: _Looks) -> bool:
    usable = {id_: file for id_, file in second.items() if not file.reason}
    chosen = _spaced(first, usable, ids)
    return bool(chosen) and all(
        first[id_].sha256 == usable[id_].sha256 or _same(looks.at(first[id_], id_)[0], looks.at(usable[id_], id_)[0])
        for id_ in chosen
    )


def _same(first: str | None, second: str | None) -> bool:
    return first is not None and first == second


def _is_upscaled(image: np.ndarray, lq: Path) -> bool:
    """Within half a level of the upscaled input on average, so that a JPEG of it is not missed for its rounding."""
    try:
        pixels = pixels_apart(read_file(lq))
    except ImageError:
        return False
    upscaled = Image.fromarray(pixels).resize(image.shape[1::-1], Image.Resampling.BICUBIC)
    return bool(np.abs(np.asarray(upscaled, np.int16) - image).mean() < 0.5)
