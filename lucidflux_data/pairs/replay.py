"""Replay: the LQ of a stored pair made again from what the pair itself holds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lucidflux_data.degradation import backends
from lucidflux_data.images import decode
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples
from lucidflux_data.storage.folder import Folder


def replay_pair(folder: Folder, key: str) -> tuple[dict[str, Any], bytes]:
    """What came of it (`equal`, `made_by`, and `difference` where it is not equal) and the bytes of the new lq.png.

    InputError: no such pair, a plan of a newer version, or an HQ that is gone. ConfigError: a missing backend.
    """
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    members = samples.find_sample(folder, key)
    record = json.loads(members["json"])
    backend = record["versions"]["backend"]
    device = _device(record["versions"])
    degrade = backends.load_backend(backend, device)
    hq = pairs.hq_pixels(record, samples.stored_hq(members, record, run["sources"]), config.degrade.crop)
    data = pairs.replay(record, hq, degrade)
    result: dict[str, Any] = {"key": key, "equal": data == members["lq.png"], "made_by": _told(record["versions"])}
    if not result["equal"]:
        result["difference"] = _difference(
            key, record["versions"], backends.versions(backend, device), decode(members["lq.png"]), decode(data)
        )
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


def _told(versions: dict[str, str]) -> str:
    others = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "backend")
    return f"{versions['backend']} ({others})"
