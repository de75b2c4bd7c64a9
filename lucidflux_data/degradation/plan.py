"""Everything random about a pair, drawn before a pixel is touched.

    draw_plan(key, variant, config) -> a dictionary that is its own JSON:
        crop, flip, usm      how the HQ is cut out of the clean image
        steps                blur, resize, noise, JPEG ... each with all of its parameters
        lq, align, jpeg      size of the LQ; which sampling and which quantisation table the executors use

Each operation has a Philox stream of its own, keyed by the sha256 of (seed, key, variant, operation), and a fixed
place in it for each of its parameters. So a new operation, or a new parameter at the end of one, moves no other draw.
Executors take the plan alone: noise fields are drawn from the `stream` of their step.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, TypeVar

import numpy as np

from lucidflux_data.degradation.config import DIRECTIONS, FAMILIES, DegradeConfig, FinalConfig, StageConfig
from lucidflux_data.errors import InputError

PLAN_VERSION = 1
SMALL_KERNEL = 13  # realesrgan_dataset.py: sinc cut-offs start at pi/3 under this size, at pi/5 from it on
ROTATION = (-math.pi, math.pi)
TWO_53 = float(1 << 53)
Value = TypeVar("Value")


class Kernel(TypedDict):
    """A blur kernel. `type`: sinc or one of FAMILIES; `size`: its side in pixels, odd; a sinc has a `cutoff` in radians
    a pixel; the others `sigma_x` in pixels and, where they have them, `sigma_y`, `rotation` in radians, and `beta`."""

    type: str
    size: int
    cutoff: NotRequired[float]
    sigma_x: NotRequired[float]
    sigma_y: NotRequired[float]
    rotation: NotRequired[float]
    beta: NotRequired[float]


class Step(TypedDict):
    """One operation: `op` says which, and so which of the parameters there are.

    usm: none. blur: `kernel`. resize: `mode`, `side` in pixels, `sampling`, `scale` where
    that was drawn, and the `width` of what is no square (`draw_whole`): `side` is its height then.
    gaussian_noise: `sigma` in grey levels; poisson_noise: `scale`; both: `gray`, and the `stream` of the field (32 hex
    digits). jpeg: `quality`, 1..100.
    """

    op: str
    kernel: NotRequired[Kernel]
    mode: NotRequired[str]
    side: NotRequired[int]
    width: NotRequired[int]
    sampling: NotRequired[str]
    scale: NotRequired[float]
    sigma: NotRequired[float]
    gray: NotRequired[bool]
    stream: NotRequired[str]
    quality: NotRequired[float]


class Crop(TypedDict):
    """`mode`: see CropConfig; `draws`: for each try the covered share of the short side and the place of the window,
    all in [0, 1]."""

    mode: str
    draws: list[list[float]]


class Plan(TypedDict):
    """What `draw_plan` gives. `size`, `lq`: sides of HQ and LQ in pixels; `align`, `jpeg`, `sharpen_hq`: see
    DegradeConfig; `flip`: left-right, after the crop."""

    plan_version: NotRequired[int]
    hq_key: str
    variant: int
    seed: int
    size: int
    lq: int
    align: str
    jpeg: str
    crop: Crop
    flip: bool
    sharpen_hq: str
    steps: list[Step]


class Streams:
    """The streams of one (seed, key, variant)."""

    def __init__(self, seed: int, key: str, variant: int) -> None:
        self._root = hashlib.sha256(f"{seed}\0{key}\0{variant}\0".encode())
        self._generator = np.random.Philox(key=0)
        self._fresh = self._generator.state

    def name(self, operation: str) -> str:
        """32 hex digits: the 128-bit Philox key of an operation."""
        root = self._root.copy()
        root.update(operation.encode())
        return root.hexdigest()[:32]

    def uniforms(self, operation: str, count: int) -> list[float]:
        """`count` floats in [0, 1); the first n are the same for any count."""
        key = bytes.fromhex(self.name(operation))
        self._fresh["state"]["key"] = np.frombuffer(key, ">u8").astype(np.uint64)
        self._generator.state = self._fresh  # NumPy's Philox4x64-10 at counter zero under this key
        return [(word >> 11) / TWO_53 for word in self._generator.random_raw(count).tolist()]


def draw_plan(key: str, variant: int, config: DegradeConfig) -> Plan:
    """The plan of one variant of the image `key`. Pure: equal arguments give equal plans, on any machine.

    Raises nothing for a valid config. On line, `variant` is the epoch.
    """
    streams = Streams(config.seed, key, variant)
    lq = config.size // config.scale
    reference = config.align == "reference"
    steps: list[Step] = [{"op": "usm"}] if config.sharpen_hq == "input-only" else []
    steps += _stage(streams, "first", config.first, config.size, reference, config.first.resize_law == "scale")
    jpeg = _jpeg(streams, "first", config.first)
    if config.second is not None:
        steps += [jpeg, *_stage(streams, "second", config.second, lq, reference, False)]
        jpeg = _jpeg(streams, "second", config.second)
    steps += _final(streams, config.final, jpeg, lq, reference)
    return {
        "plan_version": PLAN_VERSION,
        "hq_key": key,
        "variant": variant,
        "seed": config.seed,
        "size": config.size,
        "lq": lq,
        "align": config.align,
        "jpeg": config.jpeg,
        "crop": _crop(streams, config),
        "flip": streams.uniforms("flip", 1)[0] < config.crop.flip_prob,
        "sharpen_hq": config.sharpen_hq,
        "steps": steps,
    }


def draw_whole(key: str, variant: int, config: DegradeConfig, height: int, width: int) -> Plan:
    """The plan of a whole image that is no square, of sides in pixels that `config.scale` divides: the very draws of
    `draw_plan`, whose sides follow from each of the two. `size` and `lq` are of the height. For the executor cv2."""
    tall, wide = (draw_plan(key, variant, config.model_copy(update={"size": side})) for side in (height, width))
    for step, other in zip(tall["steps"], wide["steps"], strict=True):
        if "side" in other and other["side"] != step["side"]:
            step["width"] = other["side"]
    return tall


def check_plan(plan: Plan) -> None:
    """InputError where a plan is of a newer version than this code."""
    if plan.get("plan_version", 0) > PLAN_VERSION:
        raise InputError(
            f"plan version {plan['plan_version']} is newer than the {PLAN_VERSION} that is known here: update lucidflux"
        )


def _crop(streams: Streams, config: DegradeConfig) -> Crop:
    crop = config.crop
    numbers = streams.uniforms("crop", 3 * crop.tries)
    draws = [numbers[3 * n : 3 * n + 3] for n in range(crop.tries)]
    low, high = crop.cover
    return {"mode": crop.mode, "draws": [[low + (high - low) * cover, top, left] for cover, top, left in draws]}


def _stage(streams: Streams, name: str, stage: StageConfig, full: int, reference: bool, by_scale: bool) -> list[Step]:
    """Blur, resize and noise. `full`: the side, in pixels, that a scale of 1 means."""
    steps: list[Step] = []
    if streams.uniforms(f"{name}.blur", 1)[0] < stage.blur_prob:
        steps.append({"op": "blur", "kernel": _kernel(streams.uniforms(f"{name}.kernel", 9), stage)})
    direction, place, mode = streams.uniforms(f"{name}.resize", 3)
    scale = _resize_scale(_choice(DIRECTIONS, stage.resize_probs, direction), place, stage)
    side = max(1, int(full * scale))
    resize = _resize(_among(stage.resize_modes, mode), side, reference, by_scale)
    resize["scale"] = scale
    steps.append(resize)
    return [*steps, _noise(streams, name, stage)]


def _resize(mode: str, side: int, reference: bool, by_scale: bool) -> Step:
    """`sampling`: see degrade_cv2.resize. Only the first stage of Real-ESRGAN gives torch a scale factor."""
    sampling = "size" if not reference else "pool" if mode == "area" else "scale" if by_scale else "size"
    return {"op": "resize", "mode": mode, "side": side, "sampling": sampling}


def _resize_scale(direction: str, place: float, stage: StageConfig) -> float:
    low, high = stage.resize_range
    if stage.resize_law == "divisor":
        return 1 / _within((1 / high, 1 / low), place)
    if direction == "up":
        return _within((1.0, high), place)
    return _within((low, 1.0), place) if direction == "down" else 1.0


def _noise(streams: Streams, name: str, stage: StageConfig) -> Step:
    kind, strength, gray = streams.uniforms(f"{name}.noise", 3)
    step: Step
    if kind < stage.gaussian_prob:
        step = {"op": "gaussian_noise", "sigma": _within(stage.gaussian_sigma, strength)}
    else:
        step = {"op": "poisson_noise", "scale": _within(stage.poisson_scale, strength)}
    step["gray"], step["stream"] = gray < stage.gray_prob, streams.name(f"{name}.noise_field")
    return step


def _jpeg(streams: Streams, name: str, stage: StageConfig) -> Step:
    return {"op": "jpeg", "quality": _within(stage.jpeg_quality, streams.uniforms(f"{name}.jpeg", 1)[0])}


def _final(streams: Streams, final: FinalConfig, jpeg: Step, lq: int, reference: bool) -> list[Step]:
    """{resize to the LQ size, sinc} and JPEG; other interleavings give twisted lines (Real-ESRGAN's own remark)."""
    order, mode, sinc = streams.uniforms("final", 3)
    back = [_resize(_among(final.resize_modes, mode), lq, reference, False)]
    size, cutoff = streams.uniforms("final.kernel", 2)
    if sinc < final.sinc_prob:
        kernel: Kernel = {
            "type": "sinc",
            "size": _among(final.kernel_sizes, size),
            "cutoff": _within(final.sinc_cutoff, cutoff),
        }
        back.append({"op": "blur", "kernel": kernel})
    return [jpeg, *back] if order < final.jpeg_first_prob else [*back, jpeg]


def _kernel(u: Sequence[float], stage: StageConfig) -> Kernel:
    """Parameters of a blur kernel, from nine numbers with fixed roles; what a type does not have is left out."""
    place, is_sinc, cutoff, family, sigma_x, sigma_y, rotation, side, beta = u
    size = _among(stage.kernel_sizes, place)
    if is_sinc < stage.sinc_prob:
        lowest = math.pi / 3 if size < SMALL_KERNEL else math.pi / 5
        return {"type": "sinc", "size": size, "cutoff": _within((lowest, math.pi), cutoff)}
    kind = _choice(FAMILIES, stage.kernel_probs, family)
    kernel: Kernel = {"size": size, "type": kind, "sigma_x": _within(stage.sigma, sigma_x)}
    if kind.endswith("aniso"):
        kernel["sigma_y"], kernel["rotation"] = _within(stage.sigma, sigma_y), _within(ROTATION, rotation)
    for name, interval in (("generalized", stage.beta_generalized), ("plateau", stage.beta_plateau)):
        if kind.startswith(name):  # half of the draws on each side of 1
            low, high = interval
            kernel["beta"] = _within((low, 1.0) if side < 0.5 else (1.0, high), beta)
    return kernel


def _within(interval: tuple[float, float], u: float) -> float:
    return interval[0] + (interval[1] - interval[0]) * u


def _among(values: Sequence[Value], u: float) -> Value:
    return values[int(u * len(values))]


def _choice(names: Sequence[str], table: Mapping[str, float], u: float) -> str:
    """A name by its probability; the order is that of `names`, whatever the order of the table."""
    there = [name for name in names if table.get(name, 0) > 0]
    ends = list(itertools.accumulate(table[name] for name in there))
    return there[min(bisect.bisect_right(ends, u), len(there) - 1)]
