"""SSCD's descriptor of copies: ResNet-50, generalised mean of the last maps, a linear layer to 512 numbers.

    image -> 320 x 320, not cut -> ImageNet's normalisation -> maps x -> (mean of max(x, 1e-6)^3)^(1/3) -> linear

Facts from github.com/facebookresearch/sscd-copy-detection (MIT), commit 95902662: 320 x 320 is its `skew_320`, and the
names are those of the files `*.torchvision.pt`. The files `*.classy.pt` have other names, `*.torchscript.pt` are code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50

from lucidflux_data.errors import InputError
from lucidflux_model.embedding.batches import Embed, in_batches
from lucidflux_model.weights.tensors import is_finite, read_tensors

SIZE = 512  # numbers of a vector
SIDE = 320  # px
POWER, LEAST = 3.0, 1e-6
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB in 0..1
PREFIX = "backbone."


class GeneralisedMean(nn.Module):
    """B x C x H x W -> B x C x 1 x 1, in the place of ResNet's mean."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.clamp(min=LEAST).pow(POWER).mean((2, 3), keepdim=True).pow(1 / POWER)


def load_sscd(path: Path, device: str) -> Embed:
    """A file of tensors with the names of `sscd_*.torchvision.pt`, as torch wrote it or safetensors. InputError for any
    other file."""
    # copied, since a mapped file lies at any address, and kernels round by alignment
    state = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in read_tensors(path).items()
    }
    with torch.device("meta"):
        network = resnet50(num_classes=SIZE)
    network.avgpool = GeneralisedMean()
    shapes = {PREFIX + name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != shapes:
        raise InputError(
            f"{path} does not hold the ResNet-50 of SSCD by torchvision's names: take sscd_disc_mixup.torchvision.pt "
            "(files of Classy Vision have others, and sscd_disc_large is another network)"
        )
    if not all(map(is_finite, state.values())):
        raise InputError(f"{path} has weights that are no finite numbers: fetch it again")
    network.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, assign=True)
    return in_batches(prepare, network.requires_grad_(False).eval().to(device), device)


def prepare(image: np.ndarray) -> Tensor:
    """float32 3 x SIDE x SIDE of uint8 HxWx3 RGB: the whole image, whatever its shape."""
    resized = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(resized, np.float32) / 255).permute(2, 0, 1)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation
