"""Small networks of published architectures with random weights, as their authors' trainers save them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn


def esrgan() -> nn.Module:
    return ESRGAN(num_filters=8, num_blocks=1, scale=4)


def compact(scale: int = 2) -> nn.Module:
    return Compact(num_feat=8, num_conv=2, upscale=scale)


def swinir() -> nn.Module:
    """Without upscaling: a denoiser."""
    return SwinIR(embed_dim=12, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2, upscale=1)


def write_networks(folder: Path) -> dict[str, tuple[Path, int]]:
    """Name -> (file, scale): an average beside the weights, safetensors, and the prefix of a wrapper."""
    torch.manual_seed(0)
    networks = {"esrgan": esrgan(), "compact": compact(), "swinir": swinir()}
    with torch.no_grad():  # a picture in the middle of the range, with what the weights make of the input
        for name in ("esrgan", "compact"):
            last = [module for module in networks[name].modules() if isinstance(module, nn.Conv2d)][-1]
            last.weight *= 4
        networks["swinir"].conv_last.weight *= 0.1
        last_of_esrgan = [module for module in networks["esrgan"].modules() if isinstance(module, nn.Conv2d)][-1]
        last_of_esrgan.bias += 0.5
    states = {name: network.state_dict() for name, network in networks.items()}
    other = {key: torch.zeros_like(tensor) for key, tensor in states["esrgan"].items()}
    torch.save({"params": other, "params_ema": states["esrgan"]}, folder / "esrgan.pth")
    save_file(states["compact"], folder / "compact.safetensors")
    torch.save({f"module.{key}": tensor for key, tensor in states["swinir"].items()}, folder / "swinir.pth")
    return {
        "esrgan": (folder / "esrgan.pth", 4),
        "compact": (folder / "compact.safetensors", 2),
        "swinir": (folder / "swinir.pth", 1),
    }
