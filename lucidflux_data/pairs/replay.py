"""Replay: the LQ of a stored pair made again from what the pair itself holds."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np

from lucidflux_data.codecs import version
from lucidflux_data.degradation import backends
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

DECODERS = version.LIBRARIES.keys() - {"opencv"}  # named after the libraries that degrade


class Replayed(TypedDict):
    """`equal`: whether the new lq.png has the bytes of the stored one; `made_by`: backend and libraries, in words;
    `difference`: a sentence, where it is not equal; `decoder`: one where decoders of another version made the pair."""

    key: str
    equal: bool
    made_by: str
    decoder: NotRequired[str]
    difference: NotRequired[str]


def replay_pair(folder: Folder, key: str) -> tuple[Replayed, bytes]:
    """What came of it, and the bytes of the new lq.png.

    InputError: no such pair, a plan of a newer version, or an HQ that is gone. ConfigError: a missing backend.
    """
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    members = samples.find_sample(folder, key)
    record = parse_json(members["json"])
    backend = record["versions"]["backend"]
    device = _device(record["versions"])
    degrade = backends.load_backend(backend, device)
    hq = pairs.hq_pixels(record, samples.stored_hq(members, record, run["sources"]), config.degrade.crop)
    data = pairs.replay(record, hq, degrade)
    result: Replayed = {"key": key, "equal": data == members["lq.png"], "made_by": _told(record["versions"])}
    made_by = _decoder(record["versions"])
    if made_by != str(version.DECODER_VERSION):
        result["decoder"] = f"made by decoder {made_by}, this is decoder {version.DECODER_VERSION}"
    if not result["equal"]:
        here = pairs.versions(backend, device)
        stored, made = pixels_apart(members["lq.png"]), pixels_apart(data)
        result["difference"] = _difference(key, record["versions"], here, stored, made)
    return result, data


def _device(made_by: dict[str, str]) -> str:
    """A pair that was made on a GPU is replayed on one, where there is one."""
    if made_by.get("device", "cpu") == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _difference(key: str, made_by: dict[str, str], here: dict[str, str], stored: np.ndarray, again: np.ndarray) -> str:
    if stored.shape != again.shape:
        apart = f"{stored.shape[1]}x{stored.shape[0]} stored, {again.shape[1]}x{again.shape[0]} now"
    else:
        levels = np.abs(stored.astype(int) - again)
        apart = f"{np.count_nonzero(levels.any(axis=2))} pixels differ, by {levels.max()} levels at most"
    why = "" if here == made_by else f"; it was made by {_told(made_by)}, this is {_told(here)}"
    return f"{key} is not what is stored: {apart}{why}"


def _decoder(versions: dict[str, str]) -> str:
    return versions.get("decoder", str(version.FIRST))


def _told(versions: dict[str, str]) -> str:
    names = sorted(versions.keys() - {"backend", "decoder"}, key=lambda name: (name in DECODERS, name))
    made_with = f"{versions['backend']} ({', '.join(f'{name} {versions[name]}' for name in names)})"
    made_by = _decoder(versions)
    return made_with if made_by == str(version.DECODER_VERSION) else f"decoder {made_by}, {made_with}"
