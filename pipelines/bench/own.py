"""Our own methods: bicubic, lanczos, proxy (SwinIR alone), lucidflux[schedule,steps], and networks from a file."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.environment import commit, versions
from benchmarks.methods.method_file import MethodFile
from lucidflux_data.config import resolve
from lucidflux_data.errors import ConfigError, needs_extra
from lucidflux_data.images import upsample_lq
from pipelines.bench.making import Make, Place, Upscale, resize_all, restore_all
from pipelines.restoration.config import RestoreConfig

NAMES = ("bicubic", "lanczos", "proxy", "lucidflux")
SCHEDULES = ("published", "flux")


def describe_own(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", name)
    base, options = (match[1], match[2]) if match else (name, None)
    if settings:
        raise ConfigError(f"--set is for adapters; {base} takes its settings in brackets")
    values: dict[str, str] = {}
    if base == "lucidflux":
        values = _lucidflux_settings(options or "published,28")
    elif options:
        raise ConfigError(f"{base} has no settings: not {name}")
    if base in ("lucidflux", "proxy"):
        values["model"] = place.model or "flux-dev"
    parts = [value for key, value in values.items() if not (key == "model" and value == "flux-dev")]
    method = f"{base}[{','.join(parts)}]" if parts else base
    about = describe_here(method, values | {"scale": str(scale)})
    if base in ("lucidflux", "proxy"):
        about["weights"] = _weights(values["model"], place)
    if base == "lucidflux":
        about["contaminated"] = contaminated_suites(place)
        return about, lambda *given: restore_all(
            lambda seed: _lucidflux_config(values, scale, place, seed), place.device, *given
        )
    upscale = {"bicubic": upsample_lq, "lanczos": lanczos}.get(base) or _proxy(place)
    return about, lambda *given: resize_all(upscale, scale, *given)


def describe_here(method: str, settings: dict[str, str], libraries: tuple[str, ...] = ()) -> MethodFile:
    """What method.json says of a method that runs in this process, and by which `libraries` beside the usual ones."""
    packages = versions() | {library: importlib.metadata.version(library) for library in libraries}
    return {
        "method": method,
        "repository": "this package",
        "commit": commit(Path(__file__).parent),
        "at_pinned_commit": True,
        "settings": settings,
        "packages": ",".join(f"{key} {value}" for key, value in packages.items() if value),
    }


def _lucidflux_settings(text: str) -> dict[str, str]:
    schedule, _, steps = text.partition(",")
    if schedule not in SCHEDULES or not steps.isdigit() or int(steps) < 1:
        raise ConfigError(f"lucidflux takes [schedule,steps], {' or '.join(SCHEDULES)} and a number: not [{text}]")
    return {"schedule": schedule, "steps": steps}


def _lucidflux_config(values: dict[str, str], scale: int, place: Place, seed: int) -> RestoreConfig:
    model = {"name": values["model"], "weights": place.weights, "trained": place.trained, "device": place.device}
    return RestoreConfig.model_validate(
        {"model": model, "schedule": values["schedule"], "steps": int(values["steps"]), "upscale": scale, "seed": seed}
    )


def contaminated_suites(place: Place) -> list[str]:
    """Suites that the trained parts were validated on, by the mark that training leaves in them."""
    with needs_extra("model"):
        from lucidflux_model.training.contamination import read_mark

    weights = place.trained or place.weights
    return read_mark(Path(weights)) if weights else []


def _weights(model: str, place: Place) -> str:
    """A sha256 that stands for the weights."""
    with needs_extra("model"):
        from lucidflux_model.inference.config import ModelConfig, weights_digest

    return weights_digest(resolve(ModelConfig, {"name": model, "weights": place.weights, "trained": place.trained}))


def lanczos(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 height x width x 3 by Pillow's Lanczos (a = 3)."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _proxy(place: Place) -> Upscale:
    """SwinIR alone on the upscaled input: what LucidFlux's second branch sees."""
    with needs_extra("model"):
        import torch

        from lucidflux_model.network.build import build_random
        from lucidflux_model.network.device import pick_device
        from lucidflux_model.network.proxy import SwinIRProxy

    device = pick_device(place.device)
    if place.model == "tiny":
        model = build_random("tiny", 0)["proxy"]
    elif place.weights is None or not Path(place.weights, "proxy").is_dir():
        raise ConfigError(
            "proxy needs --weights FOLDER, made by `lucidflux weights convert`; --model tiny runs without"
        )
    else:
        model = SwinIRProxy.from_pretrained(
            place.weights, subfolder="proxy", local_files_only=True, use_safetensors=True
        )
    model = model.to(device).eval()

    def upscale(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        image = torch.from_numpy(upsample_lq(pixels, height, width).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            restored = model.restore(image.to(device))[0].permute(1, 2, 0)
        return np.asarray((restored.cpu().numpy() * 255).round().astype(np.uint8))

    return upscale
