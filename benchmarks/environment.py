"""What the numbers were made with: libraries, devices, weights, code. Kept beside the results, not in them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = (
    *("lucidflux", "numpy", "scipy", "pillow", "opencv-python-headless", "torch", "torchvision", "pyiqa", "timm"),
    *("transformers", "open_clip_torch", "ray"),
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


def capture() -> dict[str, Any]:
    """Versions, machine, GPUs, git commit of this code and command line; `hash` covers what can change a number."""
    decisive = {"python": platform.python_version(), "machine": platform.machine(), "gpus": gpus()} | versions()
    text = json.dumps(decisive, sort_keys=True)
    return {
        "hash": hashlib.sha256(text.encode()).hexdigest()[:8],
        "decisive": decisive,
        "platform": platform.platform(),
        "commit": commit(Path(__file__).parent),
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def gpus() -> list[str]:
    """Name and driver of each GPU as nvidia-smi lists them; [] without it."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def commit(folder: Path) -> str | None:
    """The git commit that a folder is checked out at, with `-dirty` where files differ; None outside git."""
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None if told.returncode == 0 else None
