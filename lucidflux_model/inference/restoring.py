"""`lucidflux_model.restore`: pictures in, restored pictures out, in one call."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from PIL import Image

from lucidflux_data.errors import ImageError, InputError, WrongCall, suggest
from lucidflux_data.in_memory import each_picture
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_model.inference.config import SEED, TINY, ModelConfig, Offload, Quantize
from lucidflux_model.inference.loading import load_pipeline, quiet_libraries
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.inference.request import Request


class Options(TypedDict, total=False):
    """What a call may ask for besides the model; defaults are those of `lucidflux restore`."""

    steps: int  # 28; 4 of tiny
    upscale: float  # 4; 1 of tiny
    height: int  # of the results in pixels; one side alone keeps the aspect ratio
    width: int
    seed: int  # of the noise, the same for every image
    guidance: float
    proxy_strength: float
    schedule: Literal["published", "flux"]
    numerics: Literal["fast", "parity"]
    color_fix: Literal["proxy", "lq", "none"]
    tile: int  # pixels, a multiple of 64; 0 is never
    overlap: int
    quantize: Quantize
    offload: Offload
    device: str


@overload
def restore(
    images: object,
    weights: str | os.PathLike[str] | None = None,
    *,
    model: Literal["flux-dev", "tiny"] = "flux-dev",
    trained: str | os.PathLike[str] | None = None,
    output_type: Literal["pil"] = "pil",
    **options: Unpack[Options],
) -> list[Image.Image]: ...
@overload
def restore(
    images: object,
    weights: str | os.PathLike[str] | None = None,
    *,
    model: Literal["flux-dev", "tiny"] = "flux-dev",
    trained: str | os.PathLike[str] | None = None,
    output_type: Literal["np"],
    **options: Unpack[Options],
) -> list[np.ndarray]: ...
def restore(
    images: object,
    weights: str | os.PathLike[str] | None = None,
    *,
    model: Literal["flux-dev", "tiny"] = "flux-dev",
    trained: str | os.PathLike[str] | None = None,
    output_type: Literal["pil", "np"] = "pil",
    **options: Unpack[Options],
) -> list[Image.Image] | list[np.ndarray]:
    """The restored images, in order: the pixels that `lucidflux restore` writes.

    `images`: a file, a picture of Pillow, an array or a tensor (see `lucidflux_data.in_memory.pixels_of`), or an
    iterable of them; sizes may differ. `weights`: a folder that `lucidflux weights convert` made; `model="tiny"` runs
    without, on random weights, and restores nothing. `trained`: a file in the layout of lucidflux.pth over it.
    `output_type`: pil, or np (float32 HxWx3 in [0, 1]). The model of the last call is kept for the next one.

    Raises ConfigError or InputError where the model or a file cannot be had, WrongImage or WrongCall, which are
    ValueErrors as well, for a wrong image or option.

    >>> from lucidflux_model import restore
    >>> (result,) = restore(Image.new("RGB", (32, 24), "grey"), model="tiny", steps=1, upscale=2)
    >>> result.size
    (64, 48)
    """
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        known = tuple(Options.__annotations__)
        raise WrongCall(f"restore has no option {unknown[0]!r}: {suggest(unknown[0], known, len(known))}")
    if output_type not in ("pil", "np"):
        raise WrongCall(f"output_type is pil or np, not {output_type!r}")
    asked: dict[str, Any] = {**(TINY if model == "tiny" else {}), **options}
    given = {name: asked.pop(name) for name in ("quantize", "offload", "device") if name in asked}
    config = ModelConfig(
        name=model,
        weights=None if weights is None else str(weights),
        trained=None if trained is None else str(trained),
        **given,
    )
    tile, numerics = asked.get("tile", 1024), asked.get("numerics", "fast")
    Request(asked.get("steps", 28), numerics=numerics, tile=tile, overlap=asked.get("overlap", 128))
    pixels = list(each_picture(images, _decoded))
    pipeline = _loaded(config, numerics, tile, _state_of_files(config))
    return [_restore_one(pipeline, image, output_type, asked) for image in pixels]


def _decoded(path: Path) -> np.ndarray:
    try:
        return pixels_apart(read_file(path))
    except ImageError as error:
        if error.reason == "missing":
            raise InputError(f"{path} is not there") from None
        raise InputError(f"{path} cannot be used: {error.detail}") from None


def _state_of_files(config: ModelConfig) -> tuple[tuple[object, ...], ...]:
    """Changes with every write to a file of weights: a model is kept for as long as its files are the same."""
    named = [Path(place) for place in (config.weights, config.trained) if place is not None]
    files = [file for place in named for file in ([place] if place.is_file() else sorted(place.rglob("*.*")))]
    stats = [(str(file), os.stat(file)) for file in files]
    return tuple((name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for name, one in stats)


@functools.lru_cache(maxsize=1)
def _loaded(config: ModelConfig, numerics: str, tile: int, _state: object) -> LucidFluxPipeline:
    quiet_libraries()
    return load_pipeline(config, numerics, tile)


def _restore_one(pipeline: LucidFluxPipeline, pixels: np.ndarray, output_type: str, asked: dict[str, Any]) -> Any:
    names = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
    options = {names.get(name, name): value for name, value in asked.items() if name != "seed"}
    place = pipeline._execution_device if options.get("numerics") == "parity" else "cpu"
    generator = torch.Generator(place).manual_seed(asked.get("seed", SEED))
    return pipeline(pixels, generator=generator, output_type=output_type, **options).images[0]
