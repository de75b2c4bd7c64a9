"""What the numbers were made with: libraries, devices, weights, code. Kept beside the results, not in them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from lucidflux_data.codecs.version import DECODER_VERSION

PACKAGES = (
    *("lucidflux", "numpy", "scipy", "pillow", "opencv-python-headless", "torch", "torchvision", "pyiqa", "timm"),
    *("transformers", "open_clip_torch", "ray", "imagecodecs", "tifffile", "pillow-heif"),
)


def versions() -> dict[str, str | None]:
    """Installed versions by distribution name, None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


class Environment(TypedDict):
    """environment.json of a results folder."""

    hash: str  # over `decisive`
    decisive: dict[str, str | list[str] | None]  # what can change a number: python, machine, gpus, library -> version
    platform: str
    commit: str | None  # of this code; None outside git
    command: list[str]
    time: str  # UTC


def capture() -> Environment:
    """What the numbers of this process are made with."""
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    decisive: dict[str, str | list[str] | None] = {**machine, "gpus": gpus(), **versions()}
    decisive["decoder"] = str(DECODER_VERSION)
    text = json.dumps(decisive, sort_keys=True)
    return {
        "hash": hashlib.sha256(text.encode()).hexdigest()[:8],
        "decisive": decisive,
        "platform": platform.platform(),
        "commit": commit(Path(__file__).parent),
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextlib.contextmanager
def nvidia_driver() -> Iterator[Any]:
    """NVIDIA's management library (the module `pynvml`) while the block runs; None without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def gpu_handles(driver: Any) -> list[Any]:
    """The GPUs of `nvidia_driver`, in the order of nvidia-smi."""
    return [driver.nvmlDeviceGetHandleByIndex(number) for number in range(driver.nvmlDeviceGetCount())]


def gpus() -> list[str]:
    """`name, driver` of each GPU as nvidia-smi lists them; [] without a driver, or where it does not answer."""
    with nvidia_driver() as driver:
        if driver is None:
            return []
        try:
            version = driver.nvmlSystemGetDriverVersion()
            return [f"{driver.nvmlDeviceGetName(handle)}, {version}" for handle in gpu_handles(driver)]
        except driver.NVMLError:
            return []


def commit(folder: Path) -> str | None:
    """The git commit that a folder is checked out at, with `-dirty` where files differ; None outside git."""
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        printed = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return printed.stdout.strip() or None if printed.returncode == 0 else None
