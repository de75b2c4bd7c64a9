"""The training objective: what is drawn for a sample, and the velocity loss.

    x_s = (1 - s) x0 + s n        target = n - x0        loss = mean (prediction - target)^2

x0: latents of the HQ, n: normal noise, s: sigma in (0, 1), all in float32. Every draw follows from (seed, position in
the stream of samples), so it is the same on any number of processes, whatever batches a sample comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidflux_model.network.schedule import shift
from lucidflux_model.samples.stream import hash64
from lucidflux_model.training.config import BINS, TrainConfig

PUBLISHED_OFFSET = (
    3.1582  # what the published script adds to the normal draw (it is e^1.15, the factor for 4096 tokens)
)


@dataclass
class Draws:
    """Of one batch. `sigma`, `time`, `guidance`, `keep_*`: B, float32; `noise`: B x C x H x W.

    `keep_*`: 1, or 0 where the part is dropped for a sample; None where nothing is ever dropped.
    """

    noise: Tensor
    sigma: Tensor
    time: Tensor  # sigma as the model is given it
    guidance: Tensor
    keep_semantic: Tensor | None = None
    keep_lq: Tensor | None = None
    keep_proxy: Tensor | None = None


def draw(config: TrainConfig, positions: list[int], latent_shape: tuple[int, ...], device: Any = None) -> Draws:
    """`latent_shape`: C x H x W."""
    normals, uniforms = [], []
    noise = torch.empty(len(positions), *latent_shape)
    for row, position in enumerate(positions):
        generator = np.random.Generator(np.random.Philox(hash64(config.seed, "sample", position)))
        normals.append(generator.standard_normal())
        uniforms.append(generator.random(4))
        seeded = torch.Generator().manual_seed(hash64(config.seed, "noise", position))
        torch.randn(latent_shape, generator=seeded, out=noise[row])
    sigma = sigmas(config, np.array(normals), latent_shape[1] * latent_shape[2] // 4)
    low, high = config.guidance
    u = np.array(uniforms)
    silent = u[:, 2] < config.drop_branch
    columns = [sigma, model_time(config, sigma), low + (high - low) * u[:, 0]]
    if config.drop_semantic or config.drop_branch:
        kept = (u[:, 1] >= config.drop_semantic, ~(silent & (u[:, 3] < 0.5)), ~(silent & (u[:, 3] >= 0.5)))
        columns += kept
    tensors = [torch.from_numpy(column.astype(np.float32)).to(device) for column in columns]
    return Draws(noise.to(device), *tensors)


def sigmas(config: TrainConfig, normals: np.ndarray, tokens: int) -> np.ndarray:
    """float64 sigmas of standard normal draws, for an image of `tokens` tokens.

    logit-normal: sigmoid(z). flux-shift: the odds sigma / (1 - sigma) multiplied by flow_shift, e^mu by default (3.158
    at 4096 tokens). published-script: sigmoid(z + 3.1582), which multiplies the odds by 23.5.
    """
    offset = {
        "logit-normal": 0.0,
        "flux-shift": shift(tokens) if config.flow_shift is None else math.log(config.flow_shift),
        "published-script": PUBLISHED_OFFSET,
    }[config.timestep_sampling]
    return 1 / (1 + np.exp(-(normals + offset)))


def model_time(config: TrainConfig, sigma: np.ndarray) -> np.ndarray:
    """Sigma as the model is given it: itself, or as the published script rounds it, down to a 1000th, then bfloat16."""
    if config.timestep_sampling != "published-script":
        return sigma
    rounded = torch.from_numpy(np.floor(1000 * sigma) / 1000).to(torch.bfloat16)
    return np.asarray(rounded.double().numpy())


def velocity_losses(prediction: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """B mean squared errors against noise - clean, in float32; all three of one shape."""
    return (prediction.float() - (noise - clean)).square().flatten(1).mean(1)


def sigma_bins(sigma: Tensor) -> Tensor:
    """The number of the bin, 0..BINS-1, that each sigma is in."""
    return (sigma * BINS).long().clamp(0, BINS - 1)
