"""BasicSR's own functions driven by a plan: the oracle of the other executors, and what they are timed against.

Extra `reference`. The released basicsr 1.4.2 imports `torchvision.transforms.functional_tensor`, which torchvision
removed in 0.17 (fixed upstream in 2024, never released). `import_basicsr` is the one place that deals with it: while
basicsr is imported, that name stands for torchvision's private module of the same functions. Nothing is edited.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from torch.nn import functional

from lucidflux_data.degradation.kernels import make_kernel
from lucidflux_data.degradation.on_torch import overlaps
from lucidflux_data.degradation.plan import Kernel, Plan, Step, check_plan

REMOVED = "torchvision.transforms.functional_tensor"
PADDED_TO = 21  # realesrgan_dataset.py pads every kernel to 21 taps


@functools.lru_cache(maxsize=1)
def import_basicsr() -> SimpleNamespace:
    """The functions used here. ImportError without the package."""
    alias = REMOVED not in sys.modules
    if alias:
        sys.modules[REMOVED] = importlib.import_module("torchvision.transforms._functional_tensor")
    try:
        degradations = importlib.import_module("basicsr.data.degradations")
        process = importlib.import_module("basicsr.utils.img_process_util")
        diffjpeg = importlib.import_module("basicsr.utils.diffjpeg")
    finally:
        if alias:
            del sys.modules[REMOVED]
    return SimpleNamespace(
        filter2d=process.filter2D,
        usm=process.USMSharp(),
        gaussian=degradations.add_gaussian_noise_pt,
        poisson=degradations.add_poisson_noise_pt,
        jpeg=diffjpeg.DiffJPEG(differentiable=False),
        degradations=degradations,
    )


import_basicsr()


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def degrade(hq: np.ndarray, plan: Plan) -> np.ndarray:
    """The LQ of a plan: uint8 HxWx3 RGB in and out."""
    check_plan(plan)
    image = to_tensor(hq)
    for step in plan["steps"]:
        image = apply(step, image, plan)
    return to_pixels(image)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 HxWx3 -> float32 1x3xHxW in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


def to_pixels(image: torch.Tensor) -> np.ndarray:
    rounded = torch.clamp((image * 255).round(), 0, 255)[0].to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(1, 2, 0).numpy())


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def apply(step: Step, image: torch.Tensor, plan: Plan) -> torch.Tensor:
    """One step, as realesrgan_model.py does it for a batch of one: float32 1x3xHxW in 0..1."""
    basicsr = import_basicsr()
    match step["op"]:
        case "usm":
            return basicsr.usm(image)
        case "blur":
            return basicsr.filter2d(image, padded_kernel(step["kernel"]))
        case "resize":
            return resize(image, step)
        case "gaussian_noise":
            return basicsr.gaussian(image, torch.tensor([step["sigma"]]), *_seeded(step), clip=True, rounds=False)
        case "poisson_noise":
            noisy = functools.partial(basicsr.poisson, image, torch.tensor([step["scale"]]), clip=True, rounds=False)
            return noisy(gray_noise=_seeded(step)[0])
        case "jpeg":
            return _jpeg(image, step["quality"], transposed=plan["jpeg"] == "reference")
        case unknown:
            raise ValueError(f"no operation {unknown!r}")


def resize(image: torch.Tensor, step: Step) -> torch.Tensor:
    """As degrade_cv2.resize says; torch has no exact area, so that one is two products with matrices of overlaps."""
    side = (step["side"], step["side"])
    if step["sampling"] == "scale":
        return functional.interpolate(image, scale_factor=step["scale"], mode=step["mode"])
    if step["mode"] == "area" and step["sampling"] == "size":
        rows, columns = (overlaps(count, step["side"]).to(image) for count in image.shape[2:])
        return rows @ image @ columns.T
    return functional.interpolate(image, size=side, mode=step["mode"])


def padded_kernel(parameters: Kernel) -> torch.Tensor:
    """float32 1x21x21 (or the kernel's own size where that is larger)."""
    kernel = make_kernel(parameters)
    rim = max(0, (PADDED_TO - len(kernel)) // 2)
    return torch.from_numpy(np.pad(kernel, rim)).float()[None]


def _seeded(step: Step) -> tuple[torch.Tensor]:
    """BasicSR draws from torch's global generator: it is seeded from the step's stream. Returns the gray flag."""
    torch.manual_seed(int(step["stream"][:15], 16))
    return (torch.tensor([float(step["gray"])]),)


def _jpeg(image: torch.Tensor, quality: float, transposed: bool) -> torch.Tensor:
    """DiffJPEG as it is has a transposed luma table; on the transposed image that is the standard's table."""
    image = torch.clamp(image, 0, 1)
    factor = torch.tensor([quality])  # DiffJPEG overwrites its argument
    jpeg = import_basicsr().jpeg
    if transposed:
        return jpeg(image, quality=factor)
    return jpeg(image.transpose(2, 3), quality=factor).transpose(2, 3)


def to_bgr_levels(image: torch.Tensor) -> np.ndarray:
    """float32 HxWx3 BGR in grey levels: what the steps of the cv2 executor take and give."""
    levels: np.ndarray = cv2.cvtColor(np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()), cv2.COLOR_RGB2BGR) * 255
    return levels
