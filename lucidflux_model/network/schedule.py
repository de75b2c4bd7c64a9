"""Which noise levels the sampler visits: the shifted schedule of Flux, at the published length or at the true one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lucidflux_data.errors import ConfigError

SCHEDULES = ("published", "flux")


def shift(length: int) -> float:
    """mu of an image of `length` tokens: the line through (256, 0.5) and (4096, 1.15)."""
    return 0.5 + (length - 256) * (1.15 - 0.5) / (4096 - 256)


def schedule_length(schedule: str, height: int, width: int) -> int:
    """The token count that the shift is computed from, for an output of `height` x `width` pixels.

    `flux` is the count itself, 4096 at 1024 x 1024. `published` is what the published code passes, 64 there: a 64th.
    Raises ConfigError for another name.
    """
    if schedule == "published":
        return (width // 8) * (height // 8) // 256
    if schedule == "flux":
        return (width // 16) * (height // 16)
    raise ConfigError(f"the schedule is {' or '.join(SCHEDULES)}, not {schedule}")


def set_sigmas(scheduler: Any, steps: int, length: int, device: Any = None) -> torch.Tensor:
    """Puts the schedule into diffusers' FlowMatchEulerDiscreteScheduler and gives it: steps + 1 noise levels, float32.

    e^mu / (e^mu + 1/t - 1) of t evenly spaced from 1 to 0.
    """
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=shift(length), device=device)
    return scheduler.sigmas


def make_scheduler() -> Any:
    """The scheduler of FLUX.1-dev."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
