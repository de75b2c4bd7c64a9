"""Quality metrics by name. NIQE, CLIP-IQA, PSNR and SSIM are our own; others are pyiqa's (PolyForm Noncommercial).

A scorer takes a batch of uint8 HxWx3 RGB images and gives one number each. What a user can mend (a missing extra,
missing weights) is a ConfigError in one line; what concerns one image is an ImageError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lucidflux_data.errors import ConfigError, ImageError, suggest
from lucidflux_data.iqa import pyiqa_models
from lucidflux_data.iqa.batches import BatchScorer, OutOfMemory
from lucidflux_data.iqa.fidelity import psnr, ssim
from lucidflux_data.iqa.niqe import niqe
from lucidflux_data.iqa.pyiqa_models import image_tensor


@dataclass(frozen=True)
class Metric:
    """`full_reference`: compares with a reference, so it cannot select. `offline`: needs no downloaded weights."""

    lower_is_better: bool
    full_reference: bool = False
    offline: bool = False
    batched: bool = False  # an image's score was shown not to depend on the other images of its batch
    least_side: int = 0  # pixels of the shorter side, under which it refuses an image
    multiple: int = 1  # that both sides have to be of


# Directions as pyiqa 0.1.16 declares them; kept here so that a selection needs neither torch nor pyiqa.
METRICS = {
    "niqe": Metric(lower_is_better=True, offline=True),
    "piqe": Metric(lower_is_better=True, offline=True),
    "clipiqa": Metric(lower_is_better=False, batched=True),
    "clipiqa+": Metric(lower_is_better=False),
    "musiq": Metric(lower_is_better=False),
    "maniqa": Metric(lower_is_better=False),
    "maniqa-pipal": Metric(lower_is_better=False),
    "nima": Metric(lower_is_better=False),
    "qalign": Metric(lower_is_better=False),
    "topiq_nr": Metric(lower_is_better=False),
    "liqe_mix": Metric(lower_is_better=False, least_side=224),
    "fgresq": Metric(lower_is_better=False),
    "qrealign-mini": Metric(lower_is_better=False),
    "afine_all_scale": Metric(lower_is_better=True, full_reference=True, multiple=32),
    "brisque": Metric(lower_is_better=True),
    "psnr": Metric(lower_is_better=False, full_reference=True, offline=True),
    "ssim": Metric(lower_is_better=False, full_reference=True, offline=True),
    "lpips": Metric(lower_is_better=True, full_reference=True),
    "dists": Metric(lower_is_better=True, full_reference=True),
}


def metric(name: str) -> Metric:
    """What is known of a metric. ConfigError for an unknown name, with the nearest ones."""
    if name not in METRICS:
        raise ConfigError(f"there is no metric {name!r}: {suggest(name, METRICS, len(METRICS))}")
    return METRICS[name]


def lower_is_better(name: str) -> bool:
    """The direction of a metric; needs neither torch nor weights."""
    return metric(name).lower_is_better


def load_metric(name: str, device: str = "cpu") -> BatchScorer:
    """A scorer of uint8 NxHxWx3 RGB, or of one HxWx3 (no reference). ConfigError where an extra or weights are missing.

    Only metrics with `batched` may be given N > 1. The scorer raises OutOfMemory, ImageError for an image it refuses,
    and ValueError for an array that is no image.
    """
    if metric(name).full_reference:
        raise ConfigError(f"{name} compares with a reference: it cannot score a single image")
    if name == "niqe":
        return _of_images(lambda images: [niqe(image) for image in images])
    if name == "clipiqa":
        from lucidflux_data.iqa.clipiqa import load_clipiqa

        return _of_images(_guarded(load_clipiqa(device)))
    model = pyiqa_models.pyiqa_model(name, device)

    def score(images: np.ndarray | Sequence[np.ndarray]) -> list[float]:
        for image in images:
            check_size(name, image)
        return [float(value) for value in model(image_tensor(images)).flatten()]

    return _of_images(_guarded(score))


def check_size(name: str, image: np.ndarray) -> None:
    """ImageError `too_small` for an image (HxWx3) that is smaller than a metric takes, `wrong_size` for sides that are
    no multiples; nothing is resized or cut for it."""
    height, width = image.shape[:2]
    about = metric(name)
    if min(height, width) < about.least_side:
        raise ImageError("too_small", f"{name} takes sides from {about.least_side} pixels, not {width}x{height}")
    if height % about.multiple or width % about.multiple:
        raise ImageError(
            "wrong_size", f"{name} takes sides that are multiples of {about.multiple}, not {width}x{height}"
        )


def _of_images(score: BatchScorer) -> BatchScorer:
    """One image is a batch of one: taken for a batch, its rows would be images of three pixels."""

    def checked(images: np.ndarray | Sequence[np.ndarray]) -> Iterable[float]:
        if isinstance(images, np.ndarray) and images.ndim == 3:
            images = images[None]
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"a metric takes uint8 HxWx3 RGB, one or some, not {image.dtype} of {image.shape}")
        return score(images)

    return checked


def _guarded(score: BatchScorer) -> BatchScorer:
    """torch's out of memory as ours."""
    import torch

    def guarded(images: np.ndarray | Sequence[np.ndarray]) -> Iterable[float]:
        try:
            with torch.inference_mode():
                return score(images)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise OutOfMemory from None

    return guarded


def load_comparison(name: str, device: str = "cpu") -> Callable[[np.ndarray, np.ndarray], float]:
    """A scorer of (output, reference) for psnr (of RGB), ssim (of BT.601 luma), lpips, dists, afine_all_scale.

    It raises ImageError for an image that the metric refuses."""
    if not metric(name).full_reference:
        raise ConfigError(f"{name} scores a single image: it does not compare")
    if name in ("psnr", "ssim"):
        return psnr if name == "psnr" else ssim
    model = pyiqa_models.pyiqa_model(name, device)

    def compare(output: np.ndarray, reference: np.ndarray) -> float:
        check_size(name, output)
        return float(model(image_tensor(output), image_tensor(reference)).item())

    return compare
