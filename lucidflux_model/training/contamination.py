"""Which benchmark suites a checkpoint was validated on: what was chosen by a suite is no fair entry for it.

    RUN/run.json, RUN/checkpoints/*/progress.json   contaminated: [names]
    trained.safetensors                             metadata `contaminated`: names by commas
    lucidflux.pth                                   a text of that name beside its parts, which loaders by part ignore
    a folder of converted weights                   weights.json

The mark is never taken back: it goes from run to export, through `weights convert` and `export`, and into every run
that begins from the weights. `bench infer` writes it into method.json, and the leaderboard flags the row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.images import luma
from lucidflux_data.measures import fingerprints
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.run_folder import RUN_FILE
from lucidflux_model.training.checkpoints import PLACE, PROGRESS, latest
from lucidflux_model.weights import tensors
from lucidflux_model.weights.files import WEIGHTS_FILE
from lucidflux_model.weights.tensors import MARK


def join_marks(*marks: Iterable[str]) -> list[str]:
    return sorted({name for mark in marks for name in mark})


def read_mark(path: Path) -> list[str]:
    """Names of suites: of a file of trained weights, a folder of converted ones, or a run."""
    if (path / PLACE).is_dir():
        return mark_of_run(path)
    return join_marks(_json(path / WEIGHTS_FILE).get(MARK, [])) if path.is_dir() else tensors.read_mark(path)


def mark_of_run(run: Path) -> list[str]:
    """Of the run as a whole and of its newest checkpoint."""
    checkpoint = latest(run)
    of_checkpoint = _json(checkpoint / PROGRESS) if checkpoint else {}
    return join_marks(_json(run / RUN_FILE).get(MARK, []), of_checkpoint.get(MARK, []))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise VerificationError(f"{path} is damaged: it is no JSON") from None


def suites_shown(pictures: Iterable[np.ndarray], files: Iterable[Path]) -> tuple[list[str], list[str]]:
    """(suites that some picture shows an image of, fingerprint files of which not every image is looked for).

    `pictures`: uint8 HxWx3 RGB; `files`: of `lucidflux bench prepare`. Whole images, crops, flips and degraded ones are
    found. A file lacks images where it is damaged, of another version, or without a fingerprint for each.
    """
    data, lacking = [], []
    for path in files:
        content = path.read_bytes()
        try:
            images, of = fingerprints.count_images(content)
        except InputError:
            lacking.append(path.name)
            continue
        data += [content] if images else []
        lacking += [path.name] if images == 0 or images != of else []
    if not data:
        return [], lacking
    firewall = fingerprints.make_firewall(data)
    matches = [firewall.match("", fingerprints.fingerprint(luma(pixels))) for pixels in pictures]
    return join_marks(match.image.split("/")[0] for match in matches if match), lacking
