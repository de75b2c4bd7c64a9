"""The device that a model runs on. Imports torch and no library of models."""

from __future__ import annotations

import torch

from lucidflux_data.errors import ConfigError


def pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return torch.device(device)
