"""The executor of plans in torch, for a GPU (or a CPU): the plan, the noise fields and the JPEG tables of the cv2 one.

Noise is drawn from the same Philox words, so a pair differs from that of `cv2` by rounding alone: on noise- and
JPEG-free plans by at most one level, through the JPEG of this module by little more (docs/degradation.md has figures).
Images are float32 1x3xHxW RGB in grey levels 0..255.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from lucidflux_data.degradation.convolution import USM_TAPS
from lucidflux_data.degradation.kernels import make_kernel, separated, trimmed
from lucidflux_data.degradation.noise import CELLS, LUMA_BGR, WORDS, normal_slices, poisson_cells
from lucidflux_data.degradation.plan import Plan, Step, check_plan

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


def on_device(device: str) -> Callable[[np.ndarray, Plan], np.ndarray]:
    """`degrade` on a torch device: cpu, cuda, cuda:1 ..."""
    return functools.partial(degrade, device=device)


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def degrade(hq: np.ndarray, plan: Plan, device: str = "cpu") -> np.ndarray:
    """The LQ of a plan: uint8 HxWx3 RGB in and out."""
    check_plan(plan)
    image = to_tensor(hq, device)
    # cuDNN would round the factors of a convolution to ten bits (TF32), and may choose an algorithm by its speed.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for step in plan["steps"]:
            image = apply(step, image, plan)
    return to_pixels(image)


def to_tensor(pixels: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None].float()


def to_pixels(image: torch.Tensor) -> np.ndarray:
    pixels: np.ndarray = image[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def apply(step: Step, image: torch.Tensor, plan: Plan) -> torch.Tensor:
    """One step on a float32 1x3xHxW RGB image in grey levels."""
    match step["op"]:
        case "usm":
            return usm(image)
        case "blur":
            return blur(image, make_kernel(step["kernel"]))
        case "resize":
            return resize(image, step)
        case "gaussian_noise":
            return (image + gaussian_field(image, step)).clamp(0, 255)
        case "poisson_noise":
            return (image + poisson_field(image, step)).clamp(0, 255)
        case "jpeg":
            transposed = plan["jpeg"] == "reference"
            image = image.transpose(2, 3) if transposed else image
            image = jpeg(image.clamp(0, 255).round(), round(step["quality"]))
            return image.transpose(2, 3) if transposed else image
        case unknown:
            raise ValueError(f"no operation {unknown!r}")


def resize(image: torch.Tensor, step: Step) -> torch.Tensor:
    """As degrade_cv2.resize; the exact area is two products with matrices of overlaps."""
    side = (step["side"], step["side"])
    if step["sampling"] == "scale":
        return functional.interpolate(image, scale_factor=step["scale"], mode=step["mode"])
    if step["mode"] == "area" and step["sampling"] == "size":
        rows, columns = (overlaps(count, step["side"]).to(image) for count in image.shape[2:])
        return rows @ image @ columns.T
    return functional.interpolate(image, size=side, mode=step["mode"])


def overlaps(count: int, boxes: int) -> torch.Tensor:
    """boxes x count: the share of box i (i count/boxes .. (i+1) count/boxes) that each pixel has."""
    width = count / boxes
    starts, pixels = np.arange(boxes)[:, None] * width, np.arange(count)[None]
    covered = np.minimum(starts + width, pixels + 1) - np.maximum(starts, pixels)
    return torch.from_numpy(np.clip(covered, 0, None) / width).float()


def blur(image: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Correlation with an odd square kernel, border reflected without the edge; separable where the kernel is."""
    kernel = trimmed(kernel)
    parts = separated(kernel)
    reach = len(kernel) // 2
    padded = functional.pad(image, (reach,) * 4, mode="reflect") if reach else image
    if parts is None:
        return _correlate(padded, kernel)
    return _correlate(_correlate(padded, parts[0][:, None]), parts[1][None])


def _correlate(image: torch.Tensor, taps: np.ndarray) -> torch.Tensor:
    weight = torch.from_numpy(np.ascontiguousarray(taps)).to(image)[None, None].expand(3, 1, -1, -1)
    return functional.conv2d(image, weight, groups=3)


def usm(image: torch.Tensor) -> torch.Tensor:
    """As lucidflux_data.filters.usm."""
    import cv2

    column = cv2.getGaussianKernel(USM_TAPS, 0)[:, 0]
    gaussian = np.outer(column, column)
    residual = image - blur(image, gaussian)
    soft = blur((residual.abs() > 10).float(), gaussian)
    return soft * (image + 0.5 * residual).clamp(0, 255) + (1 - soft) * image


def philox_words(stream: str, count: int, device: torch.device) -> torch.Tensor:
    """int64 tensor of at least `count` 32-bit words: those that lucidflux_data.noise draws, in its order."""
    chunks = -(-count // WORDS)
    low = 0xFFFFFFFF
    a, b = int(stream[:8], 16), int(stream[8:16], 16)
    c0 = torch.arange(chunks * WORDS // 4, dtype=torch.int64, device=device)
    c1, c2, c3 = (torch.zeros_like(c0) for _ in range(3))
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((q >> 32) & low) ^ c1 ^ a, q & low, ((p >> 32) & low) ^ c3 ^ b, p & low
        a, b = (a + 0x9E3779B9) & low, (b + 0xBB67AE85) & low
    lanes = [lane.view(chunks, WORDS // 4) for lane in (c0, c1, c2, c3)]
    return torch.cat(lanes, dim=1).flatten()


def gaussian_field(image: torch.Tensor, step: Step) -> torch.Tensor:
    """sigma times standard normal noise, 1x3xHxW or (gray) 1x1xHxW."""
    _, channels, height, width = image.shape
    channels = 1 if step["gray"] else channels
    count = channels * height * width
    words = philox_words(step["stream"], -(-count // 2), image.device).view(-1, WORDS)
    halves = torch.cat([words & 0xFFFF, words >> 16], dim=1).flatten()[:count]
    noise = _table("normal", 0, image.device)[halves] * np.float32(step["sigma"]).item()
    return _planes(noise, height, width, channels)


def poisson_field(image: torch.Tensor, step: Step) -> torch.Tensor:
    """As lucidflux_data.noise.add_poisson_noise, without the sum."""
    height, width = image.shape[2:]
    if step["gray"]:
        blue, green, red = LUMA_BGR
        source = (red * image[:, 0] + green * image[:, 1] + blue * image[:, 2])[..., None]
    else:
        source = image.flip(1).permute(0, 2, 3, 1)
    levels = source.clamp(0, 255).round().long().flatten()
    values = 2 ** math.ceil(math.log2(int(torch.count_nonzero(torch.bincount(levels, minlength=256)))))
    words = philox_words(step["stream"], levels.numel(), image.device)[: levels.numel()]
    cell = words & 255
    packed = _table("cells", values, image.device)[levels * CELLS + cell]
    outcome = torch.where((words >> 8) < (packed >> 8), cell, packed & 255)
    counts = (_table("starts", values, image.device)[levels] + outcome) * (255 / values)
    noise = (counts - levels) * step["scale"]
    return _planes(noise.float(), height, width, source.shape[-1])


def _planes(noise: torch.Tensor, height: int, width: int, channels: int) -> torch.Tensor:
    """Interleaved BGR samples as 1xCxHxW RGB."""
    return noise.view(1, height, width, channels).permute(0, 3, 1, 2).flip(1)


@functools.lru_cache(maxsize=64)
def _table(name: str, values: int, device: torch.device) -> torch.Tensor:
    if name == "normal":
        return torch.from_numpy(normal_slices()).to(device)
    cells, starts = poisson_cells(values)
    return torch.from_numpy(cells.astype(np.int64).ravel() if name == "cells" else starts).to(device)


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
