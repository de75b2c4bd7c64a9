"""Tests of a quality metric: does an image's score depend on the other images in its batch? Which way do damages move
it? Do devices agree?

Used by `lucidflux-data doctor`. A metric that fails `batch_invariant` is never given batches; one whose direction is
not that of its declaration must not select.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from lucidflux_data.codecs.encoding import encode
from lucidflux_data.iqa.batches import BatchScorer

SIDE_PX = 256
LADDERS: dict[str, tuple[float, ...]] = {"blur": (1.0, 2.0, 4.0), "noise": (5.0, 15.0, 40.0), "jpeg": (75, 30, 10)}


def damaged(image: np.ndarray, kind: str, amount: float) -> np.ndarray:
    """uint8 HxWx3 RGB: Gaussian blur of sigma px, white noise of sigma levels (seed 0), or JPEG of a quality."""
    if kind == "blur":
        blurred: np.ndarray = cv2.GaussianBlur(image, (0, 0), amount)
        return blurred
    if kind == "noise":
        noise = np.random.default_rng(0).normal(0, amount, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    encoded = encode(image, "jpeg", [cv2.IMWRITE_JPEG_QUALITY, int(amount)])
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None, "what was just encoded can be decoded"
    return np.ascontiguousarray(decoded[..., ::-1])


def examine(
    score: BatchScorer, lower_is_better: bool, images: Sequence[np.ndarray], tolerance: float = 1e-4
) -> dict[str, float | str]:
    """The card of a metric on some photos (uint8 HxWx3, sides of 256 px or more; the middle 256x256 is used).

    batch_shift   largest change of a score between alone and in a batch, over the spread of the scores
    blur, noise, jpeg   share of photos whose score gets worse at every step of the ladder, as declared
    """
    crops = [_middle(image) for image in images]
    alone = np.array([_first(score, crop) for crop in crops])
    spread = float(alone.max() - alone.min()) or 1.0
    together = np.array([float(value) for value in score(np.stack(crops))])
    reversed_ = np.array([float(value) for value in score(np.stack(crops[::-1]))])[::-1]
    shift = float(max(np.abs(together - alone).max(), np.abs(reversed_ - alone).max()) / spread)
    card: dict[str, float | str] = {"batch_shift": shift, "batch_invariant": shift <= tolerance}
    for kind, amounts in LADDERS.items():
        steps = [alone] + [np.array([_first(score, damaged(crop, kind, a)) for crop in crops]) for a in amounts]
        worse = [later > before if lower_is_better else later < before for before, later in itertools.pairwise(steps)]
        card[kind] = float(np.mean(np.all(worse, axis=0)))
        last = steps[-1] > steps[0] if lower_is_better else steps[-1] < steps[0]
        card[f"{kind}_direction"] = "right" if last.mean() > 0.5 else "wrong"
    return card


def device_drift(load: Callable[[str], BatchScorer], devices: tuple[str, str], images: Sequence[np.ndarray]) -> float:
    """Largest difference of a score between two devices, over the spread of the scores."""
    crops = np.stack([_middle(image) for image in images])
    first, second = (np.array([float(value) for value in load(device)(crops)]) for device in devices)
    return float(np.abs(first - second).max() / ((first.max() - first.min()) or 1.0))


def _first(score: BatchScorer, image: np.ndarray) -> float:
    return float(next(iter(score(image[None]))))


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (image.shape[0] - SIDE_PX) // 2, (image.shape[1] - SIDE_PX) // 2
    return np.ascontiguousarray(image[top : top + SIDE_PX, left : left + SIDE_PX])
