"""`degrade` and `metric`: images in memory, or files, through what pairs and runs are made with."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from lucidflux_data.degradation import backends
from lucidflux_data.degradation.config import MIN_LQ, make_degrade_config
from lucidflux_data.degradation.plan import draw_whole
from lucidflux_data.errors import ConfigError, ImageError, InputError
from lucidflux_data.in_memory import each_picture
from lucidflux_data.iqa import metrics as iqa
from lucidflux_data.iqa.batches import BatchRules, score_all
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs.pair import sharpen
from lucidflux_data.selection.options import as_settings
from lucidflux_data.sources.reading import read_file

AT_ONCE = 32  # images that are in memory for a metric
OF_PAIRS = ("size", "crop", "align")  # settings of how a pair is cut out of an image


def degrade(
    image: object,
    preset: str = "realesrgan-x4",
    seed: int = 0,
    settings: str | Iterable[str] | Mapping[str, object] = (),
    **named: object,
) -> np.ndarray:
    """The LQ of a whole image, uint8 hxwx3 RGB: degraded by a preset, as pairs are, without a crop or a flip.

    image: a file, a picture of Pillow, an array or a tensor (`lucidflux_data.in_memory.pixels_of`). What its sides have
    over a multiple of the scale is left out on the right and at the bottom, so h = H // scale.
    seed: equal images, settings and seeds give equal bytes; another image draws other parameters.
    settings, and settings by name: as of RealESRGANPairs, like `scale=2` or `second=None`.
    Raises ConfigError for a wrong preset or setting, InputError for what is no image, or is too small.

    >>> degrade(np.zeros((96, 128, 3), np.uint8), "light", seed=1).shape
    (24, 32, 3)
    """
    asked = [*as_settings(settings), *as_settings(named)]
    for setting in asked:
        if setting.replace("=", ".").split(".")[0] in OF_PAIRS:
            raise ConfigError(f"{setting} is a setting of pairs: degrade takes the whole image")
    config = make_degrade_config(preset, [*asked, f"seed={seed}"])
    (pixels,) = _one(image)
    height, width = (side - side % config.scale for side in pixels.shape[:2])
    if min(height, width) < MIN_LQ * config.scale:
        problem = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise InputError(f"an image of {problem} is too small: its LQ has {MIN_LQ} pixels on a side at least")
    key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:20]
    plan = draw_whole(key, 0, config, height, width)
    hq = sharpen(np.ascontiguousarray(pixels[:height, :width]), plan)
    return backends.load_backend("cv2")(hq, plan)


def _one(image: object) -> list[np.ndarray]:
    found = list(itertools.islice(read_pictures(image), 2))
    if len(found) != 1:
        raise InputError(f"degrade takes one image, not {'several' if found else 'none'}")
    return found


def read_pictures(images: object) -> Iterator[np.ndarray]:
    """uint8 HxWx3 RGB of each, one after the other. InputError for what is no image."""
    return each_picture(images, _read)


def _read(path: Path) -> np.ndarray:
    try:
        return pixels_apart(read_file(os.path.expanduser(path)))
    except ImageError as error:
        problem = "is not there" if error.reason == "missing" else f"cannot be used: {error.detail}"
        raise InputError(f"{path} {problem}") from None


class Metric:
    """A quality metric, loaded: `metric("niqe")(images)`.

    `name`; `lower_is_better`; `full_reference`: whether it compares with references.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        known = iqa.metric(name)
        self.name, self.lower_is_better, self.full_reference = name, known.lower_is_better, known.full_reference
        self._batched = known.batched
        if known.full_reference:
            self._compare = iqa.load_comparison(name, device)
        else:
            self._score = iqa.load_metric(name, device)

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, {'lower' if self.lower_is_better else 'higher'} is better)"

    def __call__(self, images: object, references: object = None) -> np.ndarray:
        """float64 (n): a score of each image, which does not depend on the others.

        `images`: one or some, as files, pictures of Pillow, arrays (HxW, HxWx3, or a batch) or tensors; `references`:
        as many, of a metric that compares. Raises InputError for an image that cannot be scored, naming its place.
        """
        if (references is not None) != self.full_reference:
            problem = "compares images with references: give both" if self.full_reference else "takes no references"
            raise ConfigError(f"{self.name} {problem}")
        found = self._compared(images, references) if self.full_reference else self._scored(images)
        return np.fromiter(found, np.float64)

    def _scored(self, images: object) -> Iterator[float]:
        pictures, first = read_pictures(images), 0
        while some := list(itertools.islice(pictures, AT_ONCE)):
            for number, score in enumerate(score_all(self._score, some, BatchRules(), self._batched), first):
                if isinstance(score, ImageError):
                    raise InputError(f"image {number} has no {self.name}: {score.detail}")
                yield score
            first += len(some)

    def _compared(self, images: object, references: object) -> Iterator[float]:
        pairs = itertools.zip_longest(read_pictures(images), read_pictures(references))
        for number, (image, reference) in enumerate(pairs):
            if image is None or reference is None:
                more, fewer = ("references", "images") if image is None else ("images", "references")
                raise InputError(f"there are more {more} than {fewer}: {self.name} compares one with one")
            if image.shape != reference.shape:
                sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (image, reference))
                raise InputError(f"image {number} and its reference differ in size: {sizes}")
            yield self._compare(image, reference)


def metric(name: str, device: str = "cpu") -> Metric:
    """A quality metric by name, loaded once: niqe, psnr, ssim, clipiqa, ...; `device`: of a learned one.

    Raises ConfigError for a name that is not known, with near ones, and where an extra or weights are missing.

    >>> metric("psnr")(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)).round(6)
    array([80.])
    """
    return Metric(name, device)
