"""The executors of degradation plans by name, and the library versions that decide their pixels."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import cv2
import numpy as np

from lucidflux_data.degradation.plan import Plan
from lucidflux_data.errors import ConfigError, needs_extra, suggest

Degrade = Callable[[np.ndarray, Plan], np.ndarray]
BACKENDS = {
    "cv2": ("lucidflux_data.degradation.opencv", ""),
    "torch": ("lucidflux_data.degradation.on_torch", "model"),
    "reference": ("lucidflux_data.degradation.basicsr", "reference"),
}


def load_backend(name: str, device: str = "cpu") -> Degrade:
    """The executor of plans `name`. ConfigError for one that is not known, or whose extra is not installed."""
    if name not in BACKENDS:
        raise ConfigError(f"there is no backend {name!r}: {suggest(name, BACKENDS)}")
    module, extra = BACKENDS[name]
    with needs_extra(extra):
        loaded = importlib.import_module(module)
    degrade: Degrade = loaded.on_device(device) if name == "torch" else loaded.degrade
    return degrade


def versions(backend: str, device: str = "cpu") -> dict[str, str]:
    """What decides the bytes of a pair, beside its plan: libraries and, for torch, the kind of device."""
    import numba

    found = {"backend": backend, "numba": numba.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
    if backend != "cv2":
        import torch

        found["torch"] = torch.__version__
        found["device"] = "cpu" if device == "cpu" else torch.cuda.get_device_name(device)
    return found
