"""Optimizers, the learning rate as a function of the step, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lucidflux_model.training.config import TrainConfig


def make_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """adamw: torch's. adafactor: transformers', with a fixed rate and no scaling by the parameters, as published."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas=config.betas, eps=1e-8, weight_decay=config.weight_decay
        )
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=config.learning_rate,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step` (the first is 1): linear warm-up, then constant, or a cosine to zero at `steps`."""
    warm = min(1.0, step / config.warmup) if config.warmup else 1.0
    if config.schedule == "constant" or step <= config.warmup:
        return config.learning_rate * warm
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class MovingAverage:
    """float32 shadows: shadow += (1 - decay) (weight - shadow), the decay growing as (1 + n) / (10 + n) at first."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = dict(parameters), decay
        self.shadows: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        shadows = list(self.shadows.values())
        torch._foreach_lerp_(shadows, [p.detach() for p in self.parameters.values()], 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Any:
        """The model with the averaged weights, for as long as the block runs."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.shadows[name])
            self.shadows[name].copy_(kept)
