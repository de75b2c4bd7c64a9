"""Baseline JPEG, 4:2:0, there and back on a torch device, rounded where libjpeg-turbo rounds (ITU-T T.81, JFIF).

Colour conversion, 2x2 means of the chroma, 8x8 DCT, quantisation with the tables of Annex K, and back with the triangle
filter ("fancy upsampling") that libjpeg uses for the chroma. The DCT is exact here and in 13-bit integers there: a
coefficient near a rounding edge may fall on its other side. Sides that are no multiple of 16 are filled by repetition.
"""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

JUST_UNDER_HALF = 0.5 - 2**-15  # libjpeg rounds halves of the chroma down
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)


def jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    """1x3xHxW RGB in whole levels 0..255, through JPEG at a quality of 1..100, as whole levels again."""
    height, width = image.shape[2:]
    padded = functional.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
    red, green, blue = padded[0]
    luma = torch.floor(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
    cb = torch.floor(-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128 + JUST_UNDER_HALF)
    cr = torch.floor(0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128 + JUST_UNDER_HALF)
    luma = _quantised(luma, quality, LUMA)
    cb, cr = (_upsampled(_quantised(_halved(plane), quality, CHROMA)) - 128 for plane in (cb, cr))
    rgb = torch.stack([luma + 1.402 * cr, luma - 0.344136286 * cb - 0.714136286 * cr, luma + 1.772 * cb])
    return torch.floor(rgb + 0.5).clamp(0, 255)[None, :, :height, :width]


def _halved(plane: torch.Tensor) -> torch.Tensor:
    """Means of 2x2; halves are rounded up and down by turns along a row, as libjpeg does."""
    sums = functional.avg_pool2d(plane[None, None], 2)[0, 0] * 4
    bias = 1 + torch.arange(sums.shape[1], device=plane.device) % 2
    return torch.floor((sums + bias) / 4)


def _quantised(plane: torch.Tensor, quality: int, table: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    basis, steps = _dct_basis(plane.device), _steps(quality, table, plane.device)
    rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
    blocks = plane.view(rows, 8, columns, 8).transpose(1, 2) - 128
    levels = basis @ blocks @ basis.T / steps
    levels = torch.sign(levels) * torch.floor(levels.abs() + 0.5001)
    blocks = basis.T @ (levels * steps) @ basis
    return torch.floor(blocks + 128.5001).clamp(0, 255).transpose(1, 2).reshape(plane.shape)


@functools.lru_cache(maxsize=8)
def _dct_basis(device: torch.device) -> torch.Tensor:
    """Orthonormal 8-point DCT-II: rows are frequencies."""
    rows = [[math.cos((2 * x + 1) * u * math.pi / 16) / (2 if u else math.sqrt(8)) for x in range(8)] for u in range(8)]
    return torch.tensor(rows, device=device)


def _steps(quality: int, table: tuple[tuple[int, ...], ...], device: torch.device) -> torch.Tensor:
    """libjpeg's scaling of a base table."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return (torch.tensor(table, device=device) * scale + 50).div(100, rounding_mode="floor").clamp(1, 255).float()


def _upsampled(plane: torch.Tensor) -> torch.Tensor:
    """Twice the size by 3/4 of the nearer and 1/4 of the further sample on each axis, edges repeated."""
    p = functional.pad(plane[None], (0, 0, 1, 1), mode="replicate")[0]
    near, above, below = 3 * p[1:-1], p[:-2], p[2:]
    tall = torch.stack([near + above, near + below], dim=1).flatten(0, 1)
    t = functional.pad(tall[None], (1, 1), mode="replicate")[0]
    near, left, right = 3 * t[:, 1:-1], t[:, :-2], t[:, 2:]
    return torch.stack([torch.floor((near + left + 8) / 16), torch.floor((near + right + 7) / 16)], dim=2).flatten(1, 2)
