"""Useful floating-point operations of a training step, and what a GPU can do: together, MFU.

Useful are: the forward pass, the gradients of inputs (through the frozen backbone too: control and semantic tokens come
in at its first blocks), and the gradients of trained weights. Not useful: what checkpointing computes again, and the
frozen encoders (VAE, SwinIR, SigLIP2), whose results could be cached.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lucidflux_model.network.build import build, sizes_of
from lucidflux_model.training.model import VelocityModel
from lucidflux_model.training.objective import Draws

# Dense bfloat16 tensor throughput, FLOP/s, of the makers' data sheets (without sparsity); the first name that is part
# of the device's name counts.
PEAK = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of a GPU in bfloat16; None for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK.items() if part in name), None)


def useful_flops(model: str, height: int, width: int) -> float:
    """Of one sample of `height` x `width` pixels, counted on tensors without storage: 2 for each multiply-add."""
    sizes = sizes_of(model)
    velocity = VelocityModel(build(sizes, "meta"), autocast=False)
    tokens = (sizes.image_encoder["image_size"] // sizes.image_encoder["patch_size"]) ** 2

    def empty(*shape: int) -> Any:
        return torch.empty(*shape, device="meta")

    draws = Draws(empty(1, 16, height // 8, width // 8), *(empty(1) for _ in range(3)))
    features = empty(1, tokens, sizes.connector["redux_dim"])
    pixels = empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        output = velocity(draws.noise, pixels, pixels, features, draws)
        output.sum().backward()
    return float(counter.get_total_flops())
