"""What a call of the pipeline asks for, checked before anything is computed. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from lucidflux_data.errors import WrongCall

CHOICES = {
    "schedule": ("published", "flux"),
    "numerics": ("fast", "parity"),
    "color_fix": ("proxy", "lq", "none"),
    "output_type": ("pil", "np", "pt", "latent"),
}


@dataclass(frozen=True)
class Request:
    """The settings of a call. WrongCall, where one cannot be met, says which and what it may be."""

    steps: int = 28
    guidance: float = 4.0
    proxy_strength: float = 1.0
    schedule: str = "published"
    numerics: str = "fast"
    tile: int = 1024
    overlap: int = 128
    color_fix: str = "proxy"
    output_type: str = "pil"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise WrongCall(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        for name in ("steps", "tile", "overlap"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise WrongCall(f"{_NAMES.get(name, name)} is a whole number, not {value!r}")
        for name in ("guidance", "proxy_strength"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise WrongCall(f"{_NAMES.get(name, name)} is a finite number, not {value!r}")
        if self.tile and (self.tile % 64 or self.overlap % 64 or not 0 <= self.overlap < self.tile):
            given = f"not {self.tile} and {self.overlap}"
            raise WrongCall(f"tile and overlap are multiples of 64 pixels, and overlap is the smaller, {given}")
        if self.steps < 1:
            raise WrongCall(f"num_inference_steps is at least 1, not {self.steps}")


_NAMES = {"steps": "num_inference_steps", "guidance": "guidance_scale"}


def output_size(
    size: tuple[int, int], height: int | None = None, width: int | None = None, upscale: float = 4
) -> tuple[int, int]:
    """(height, width) of the result for an input of `size` (height, width), in pixels.

    One side alone keeps the aspect ratio; neither multiplies both by `upscale`. WrongCall for what is no size.
    """
    sides = [side for side in (height, width) if side is not None]
    if any(not isinstance(side, Integral) for side in sides):
        raise WrongCall("height and width are whole numbers of pixels")
    if not isinstance(upscale, Real):
        raise WrongCall(f"upscale is a number, not {upscale!r}")
    if not (math.isfinite(upscale) and upscale > 0) or any(side < 1 for side in sides):
        raise WrongCall("height and width are at least 1 pixel, and upscale is over 0")
    if height is None and width is None:
        height, width = (max(1, round(side * upscale)) for side in size)
    elif width is None and height is not None:
        width = max(1, round(size[1] * height / size[0]))
    elif height is None and width is not None:
        height = max(1, round(size[0] * width / size[1]))
    assert height is not None
    assert width is not None
    return height, width


def check_calls(
    images: int, generator: object, num_images_per_prompt: int | None, tensors: Sequence[str], known: Sequence[str]
) -> None:
    """What diffusers' users may ask for: a generator for each image, one result an image, tensors that a callback
    can be given. Raises WrongCall."""
    if isinstance(generator, list | tuple) and len(generator) != images:
        raise WrongCall(f"{len(generator)} generators for {images} images: give one, or one for each image")
    each = generator if isinstance(generator, list | tuple) else [] if generator is None else [generator]
    if not all(hasattr(one, "device") for one in each):
        raise WrongCall(f"generator is a torch.Generator, or a list with one for each image, not {generator!r}")
    if num_images_per_prompt not in (None, 1):
        raise WrongCall(
            f"num_images_per_prompt is 1, not {num_images_per_prompt}: for several results give an image several times"
        )
    if isinstance(tensors, str) or not isinstance(tensors, Sequence):
        raise WrongCall(f"callback_on_step_end_tensor_inputs is a list of names, not {tensors!r}")
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise WrongCall(f"callback_on_step_end_tensor_inputs are out of {', '.join(known)}, not {', '.join(unknown)}")
