"""The fast executor of plans, on one CPU core: OpenCV's resizes and JPEG codec, our blur, area resize and noise.

Images are BGR inside (the codec's order), in grey levels 0..255: float32, or uint8 where a codec gave them.
"""

from __future__ import annotations

import cv2
import numpy as np

from lucidflux_data.degradation.convolution import blur, resize_area, usm
from lucidflux_data.degradation.kernels import make_kernel
from lucidflux_data.degradation.noise import add_gaussian_noise, add_poisson_noise
from lucidflux_data.degradation.plan import Plan, Step, check_plan
from lucidflux_data.jit import compiled

INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def degrade(hq: np.ndarray, plan: Plan) -> np.ndarray:
    """The LQ of a plan: uint8 HxWx3 RGB in and out. The same bytes for the same arguments and library versions."""
    check_plan(plan)
    image = cv2.cvtColor(hq, cv2.COLOR_RGB2BGR)
    for step in plan["steps"]:
        image = apply(step, image, plan)
    lq: np.ndarray = cv2.cvtColor(to_levels(image), cv2.COLOR_BGR2RGB)
    return lq


def apply(step: Step, image: np.ndarray, plan: Plan) -> np.ndarray:
    """One step on a BGR image in grey levels (float32 or uint8). The input may be overwritten."""
    match step["op"]:
        case "usm":
            return usm(image)
        case "blur":
            return blur(image, make_kernel(step["kernel"]))
        case "resize":
            return resize(image, step)
        case "gaussian_noise":
            image = image.astype(np.float32, copy=False)
            add_gaussian_noise(image, step["sigma"], step["gray"], step["stream"])
            return image
        case "poisson_noise":
            image = image.astype(np.float32, copy=False)
            add_poisson_noise(image, step["scale"], step["gray"], step["stream"])
            return image
        case "jpeg":
            return jpeg(image, step["quality"], transposed=plan["jpeg"] == "reference")
        case unknown:
            raise ValueError(f"no operation {unknown!r}")


def resize(image: np.ndarray, step: Step) -> np.ndarray:
    """To side x side, or side x width, without antialiasing. `sampling` says how the source is laid under the result:

    size    all of it, exactly
    scale   pixels are 1/scale apart from the top left, as torch takes them when it is given a scale factor: what the
            rounded side does not cover is lost on the right and at the bottom
    pool    torch's adaptive pooling, for `area`
    """
    mode, side, sampling = step["mode"], step["side"], step["sampling"]
    width = step.get("width", side)
    if sampling != "scale" and image.shape[:2] == (side, width):
        return image
    if mode == "area":
        return resize_area(image, side, width, whole_pixels=sampling == "pool")
    image = image.astype(np.float32, copy=False)
    if sampling == "size":
        resized: np.ndarray = cv2.resize(image, (width, side), interpolation=INTERPOLATION[mode])
        return resized
    scale = step["scale"]
    sampled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=INTERPOLATION[mode])
    return np.ascontiguousarray(sampled[:side, :width])


def jpeg(image: np.ndarray, quality: float, transposed: bool) -> np.ndarray:
    """Through libjpeg-turbo at the nearest whole quality, 4:2:0.

    `transposed` swaps the roles of rows and columns: BasicSR's JPEG has its luma table transposed.
    """
    levels = to_levels(image)
    if transposed:
        levels = cv2.transpose(levels)
    _, encoded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None, "the codec reads what it wrote"
    upright: np.ndarray = cv2.transpose(decoded) if transposed else decoded
    return upright


def to_levels(image: np.ndarray) -> np.ndarray:
    """Rounded to nearest (half to even) and clipped: uint8."""
    if image.dtype == np.uint8:
        return image
    out = np.empty(image.shape, np.uint8)
    _to_levels(image.reshape(-1), out.reshape(-1))
    return out


@compiled
def _to_levels(flat: np.ndarray, out: np.ndarray) -> None:
    for i in range(flat.size):
        out[i] = np.uint8(np.rint(min(max(flat[i], np.float32(0)), np.float32(255))))
