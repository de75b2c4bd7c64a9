"""The ready scorers by name, and the files that each reads: published networks whose weights lie on this machine.

sscd      copies, cuts and collages: SSCD (Pizzi, Roy, Ravindra, Goyal, Douze, CVPR 2022)
clip      what a picture shows: CLIP (Radford et al., ICML 2021)
siglip2   likewise: SigLIP (Zhai et al., ICCV 2023) and SigLIP 2 (Tschannen et al., 2025)

NAME looks below $LUCIDFLUX_WEIGHTS, else below the toolkit's cache; NAME=PATH says where. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lucidflux_data.errors import ConfigError
from lucidflux_data.iqa.pins import file_sha256
from lucidflux_data.storage.cache import own_cache

TOWER_FILES = ("config.json", "preprocessor_config.json")  # and the weights, in one file or in shards
DIGITS = 8  # of the weights' sha256 that are in a scorer's name


@dataclass(frozen=True)
class Ready:
    """Where the weights of a ready scorer lie, and where they are to be had."""

    place: str  # a file, or a folder in the layout of the Hugging Face hub, below the folder of weights
    source: str
    licence: str


READY = {
    "sscd": Ready(
        "sscd_disc_mixup.torchvision.pt",
        "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchvision.pt",
        "MIT",
    ),
    "clip": Ready("clip", "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "MIT"),
    "siglip2": Ready("siglip2", "https://huggingface.co/google/siglip2-base-patch16-224", "Apache-2.0"),
}


def is_ready(spec: str) -> bool:
    """Whether `--scorer` names a ready scorer rather than a function of the user's."""
    return spec.partition("=")[0] in READY


def from_anywhere(spec: str) -> str:
    """The same scorer for a process in another folder: PATH made absolute."""
    name, equals, given = spec.partition("=")
    return f"{name}={Path(given).expanduser().absolute()}" if is_ready(spec) and equals else spec


def ready_name(spec: str) -> str:
    """NAME.DIGITS, the digits of the sha256 over the weights and what is read beside them: vectors of other weights are
    another scorer's. ConfigError where a file is missing."""
    name, files = spec.partition("=")[0], weight_files(spec)
    digest = hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()
    return f"{name}.{digest[:DIGITS]}"


def weight_files(spec: str) -> list[Path]:
    """The files that a ready scorer reads. ConfigError where one is missing: which, and where it is to be had."""
    name, _, given = spec.partition("=")
    about = READY[name]
    place = (
        Path(given).expanduser() if given else Path(os.environ.get("LUCIDFLUX_WEIGHTS") or own_cache()) / about.place
    )
    if name == "sscd":
        if not place.is_file():
            raise ConfigError(_lacks(name, str(place)))
        return [place]
    weights = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    missing = [str(place / file) for file in TOWER_FILES if not (place / file).is_file()]
    missing += [] if weights else [str(place / "model.safetensors")]
    if missing:
        raise ConfigError(_lacks(name, " and ".join(missing)))
    return [*(place / file for file in TOWER_FILES), *sorted(place.glob("*.index.json")), *weights]


def _lacks(name: str, missing: str) -> str:
    about = READY[name]
    return (
        f"{name} needs {missing}, to be had at {about.source} ({about.licence}); --scorer {name}=PATH says where "
        f"{'it lies' if name == 'sscd' else 'the folder lies'}"
    )
