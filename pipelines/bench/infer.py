"""`lucidflux bench infer`: the outputs of a method on a suite, by an adapter's repository or by a method of our own.

Own methods: bicubic, lanczos, proxy (SwinIR alone), lucidflux[schedule,steps]. All write the same folder of images and
the same method.json, which the leaderboard reads.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict

import numpy as np
from PIL import Image

from benchmarks.environment import commit, versions
from benchmarks.methods import adapters
from benchmarks.methods import run as infer
from benchmarks.methods.method_file import MethodFile, RunRecord
from lucidflux_data.codecs.encoding import encode
from lucidflux_data.errors import ConfigError, InputError, needs_extra
from lucidflux_data.images import ImageError, upsample_lq
from lucidflux_data.isolation import pixels_apart, probe_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from pipelines.execution.progress import Progress, warn

OWN = ("bicubic", "lanczos", "proxy", "lucidflux")
SCHEDULES = ("published", "flux")
Upscale = Callable[[np.ndarray, int, int], np.ndarray]  # pixels, height, width


@dataclass(frozen=True)
class Place:
    """Where and how a method runs: `repo` and `python` for adapters, the model's options for our own."""

    repo: Path | None = None
    python: str = "python"
    timeout_s: float | None = None
    model: str | None = None
    weights: str | None = None
    trained: str | None = None
    device: str = "auto"
    wait_s: float = 0.0  # as of lease.hold


# inputs by id, the method's folder, the folder of a seed, the seed, progress -> the run, None where nothing was left
Make = Callable[[dict[str, Path], Path, Path, int, Progress], RunRecord | None]


class Summary(TypedDict):
    """What `bench infer --json` prints."""

    method: str
    folder: str
    images: int  # made by this command
    there_before: int
    missing: list[str]  # ids that could not be made
    wrong_size: list[str]  # ids whose output is not of the promised size
    seconds_per_image: float | None
    peak_gpu_mb: int | None
    commit: str | None


def check_method(name: str, settings: list[str]) -> None:
    """ConfigError for an adapter that is unknown, wrong, or lacks one of `settings`: before a suite is prepared."""
    if name.split("[")[0] not in OWN:
        adapters.resolve(adapters.load_adapter(name), settings)


def infer_method(
    name: str, inputs: dict[str, Path], out: Path, scale: int, seeds: list[int], settings: list[str], place: Place,
    progress: Progress,
) -> Summary:  # fmt: skip
    """Makes the images of a method that are not there yet; returns a summary. No seeds: one run."""
    base = name.split("[")[0]
    own = base in OWN
    about, make = (_own if own else _adapted)(name, scale, settings, place)
    folder = out / about["method"]
    with hold(Folder(folder), place.wait_s, new=True):
        return _infer(folder, about, make, inputs, seeds, own, progress)


def _infer(
    folder: Path, about: MethodFile, make: Make, inputs: dict[str, Path], seeds: list[int], own: bool,
    progress: Progress,
) -> Summary:  # fmt: skip
    about = infer.start_method(folder, about, ("method", "settings", "weights") if own else tuple(about))
    runs: list[RunRecord] = []
    there_before = 0
    for seed in seeds or [0]:
        target = folder / f"seed-{seed}" if len(seeds) > 1 else folder
        before = len(infer.done_ids(target) & inputs.keys())
        run = make(inputs, folder, target, seed, progress)
        there_before += before
        if run:
            about["runs"].setdefault(str(seed), []).append(run)
            runs.append(run)
    infer.finish_method(folder, about)
    return {
        "method": about["method"],
        "folder": str(folder),
        "images": sum(run["images"] for run in runs),
        "there_before": there_before,
        "missing": [id_ for run in runs for id_ in run["missing"]],
        "wrong_size": [id_ for run in runs for id_ in run["wrong_size"]],
        "seconds_per_image": about["seconds_per_image"],
        "peak_gpu_mb": about["peak_gpu_mb"],
        "commit": about["commit"],
    }


def estimate_work(name: str, images: int, scale: int, settings: list[str]) -> dict[str, object]:
    """What would be run: for an adapter its repository, recipe, command and what is known to go wrong."""
    if name.split("[")[0] in OWN:
        return {"method": name, "images": images, "scale": scale}
    adapter = adapters.load_adapter(name)
    values, method = adapters.resolve(adapter, settings)
    shown = {name: f"<{name}>" for name in ("python", "inputs", "outputs", "seed")}
    return {
        "method": method,
        "images": images,
        "scale": scale,
        "about": adapter.about,
        "licence": adapter.licence,
        "repository": adapter.repository,
        "commit": adapter.commit,
        "environment": list(adapter.environment),
        "weights": adapter.weights,
        "gpus": adapter.gpus,
        "settings": values,
        "gotchas": list(adapter.gotchas),
        "command": adapter.argv(values, scale=scale, **shown),
    }


def _adapted(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    adapter = adapters.load_adapter(name)
    if place.repo is None or not place.repo.is_dir():
        raise ConfigError(
            f"{adapter.name} runs from a checkout: git clone {adapter.repository}, git checkout {adapter.commit}, "
            "make its environment (--dry-run shows how), then --repo CHECKOUT --python ENVIRONMENT/bin/python"
        )
    values, method = adapters.resolve(adapter, settings)
    repo = place.repo.absolute()
    script = adapter.script()
    if script is not None and not (repo / script).is_file():
        raise ConfigError(f"{place.repo} has no {script}: is it a checkout of {adapter.repository}?")
    python = os.path.abspath(place.python) if os.sep in place.python else place.python  # it is started in the checkout
    about = infer.describe(adapter, method, values, scale, repo, python)

    def make(inputs: dict[str, Path], folder: Path, target: Path, seed: int, progress: Progress) -> RunRecord | None:
        if not about["at_pinned_commit"]:
            warn(f"{repo} is at {about['commit'] or 'no commit'}, the adapter was written for {adapter.commit}")
        progress.say(f"{method}: {len(inputs)} images; the program writes to {folder / infer.LOG_FILE}")
        return infer.run_adapter(adapter, inputs, folder, target, values, scale, seed, python, repo, place.timeout_s)

    return about, make


def _own(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
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
    about: MethodFile = {
        "method": method,
        "repository": "this package",
        "commit": commit(Path(__file__).parent),
        "at_pinned_commit": True,
        "settings": values | {"scale": str(scale)},
        "packages": ",".join(f"{key} {value}" for key, value in versions().items() if value),
    }
    if base in ("lucidflux", "proxy"):
        about["weights"] = _weights(values["model"], place)
    if base == "lucidflux":
        about["contaminated"] = contaminated_suites(place)
        return about, lambda *given: _restore(values, scale, place, *given)
    upscale = {"bicubic": upsample_lq, "lanczos": lanczos}.get(base) or _proxy(place)
    return about, lambda *given: _resize(upscale, scale, *given)


def _lucidflux_settings(text: str) -> dict[str, str]:
    schedule, _, steps = text.partition(",")
    if schedule not in SCHEDULES or not steps.isdigit() or int(steps) < 1:
        raise ConfigError(f"lucidflux takes [schedule,steps], {' or '.join(SCHEDULES)} and a number: not [{text}]")
    return {"schedule": schedule, "steps": steps}


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

    return weights_digest(ModelConfig(name=model, weights=place.weights, trained=place.trained))


def lanczos(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 height x width x 3 by Pillow's Lanczos (a = 3)."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _proxy(place: Place) -> Upscale:
    """SwinIR alone on the upscaled input: what LucidFlux's second branch sees."""
    with needs_extra("model"):
        import torch

        from lucidflux_model.network.build import build_random, pick_device
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


def _resize(
    upscale: Upscale, scale: int, inputs: dict[str, Path], _folder: Path, target: Path, _seed: int, progress: Progress
) -> RunRecord | None:
    """Every image that is not there, through a function of pixels, as PNG."""
    left = {id_: path for id_, path in inputs.items() if id_ not in infer.done_ids(target)}
    target.mkdir(parents=True, exist_ok=True)
    start, missing = time.monotonic(), []
    with progress.phase("infer", len(left), len(inputs) - len(left)) as advance:
        for id_, path in left.items():
            try:
                pixels = pixels_apart(read_file(path))
                result = upscale(pixels, pixels.shape[0] * scale, pixels.shape[1] * scale)
                Folder(target).publish(f"{id_}.png", encode(result))
            except ImageError:
                missing.append(id_)
            advance(1)
    Folder(target).sweep()
    return _record(len(left) - len(missing), missing, time.monotonic() - start, None) if left else None


def _restore(
    values: dict[str, str],
    scale: int,
    place: Place,
    inputs: dict[str, Path],
    folder: Path,
    target: Path,
    seed: int,
    progress: Progress,
) -> RunRecord | None:
    """LucidFlux through the same batches as `lucidflux restore`; what an interrupted run has made is kept."""
    with needs_extra("model"):
        from pipelines.restoration import job as restore

    left = {id_: path for id_, path in inputs.items() if id_ not in infer.done_ids(target)}
    if not left:
        return None
    start = time.monotonic()
    work = folder / f".restore-{seed}"
    shutil.rmtree(work / "inputs", ignore_errors=True)
    infer.stage(left, work / "inputs", "link")
    model = {"name": values["model"], "weights": place.weights, "trained": place.trained, "device": place.device}
    config = restore.RestoreConfig.model_validate(
        {"model": model, "schedule": values["schedule"], "steps": int(values["steps"]), "upscale": scale, "seed": seed}
    )
    made = Folder(work / "outputs")
    rows = restore.start(made, [str(work / "inputs")], config)
    units = restore.list_remaining(made, rows, config.batch)
    job = restore.RestoreUnit(config)
    with progress.phase("infer", sum(unit.size for unit in units), len(rows) - len(units)) as advance:
        for unit in restore.run_here(made, units, job):
            advance(unit.size)
    summary = restore.finish(made, rows)
    target.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if Path(made.path(row["name"])).exists():
            shutil.move(made.path(row["name"]), target / f"{PurePosixPath(row['source_key']).stem}.png")
    shutil.rmtree(work)
    missing = sorted(set(left) - infer.done_ids(target))
    peak = summary["peak_memory_bytes"] // 2**20 if _on_gpu(place) else None
    return _record(len(left) - len(missing), missing, time.monotonic() - start, peak)


def _on_gpu(place: Place) -> bool:
    from lucidflux_model.network.build import pick_device

    return str(pick_device(place.device).type) == "cuda"


def _record(images: int, missing: list[str], seconds: float, peak_gpu_mb: int | None) -> RunRecord:
    return {
        "exit_code": 0,
        "timed_out": False,
        "wall_seconds": round(seconds, 3),
        "peak_gpu_mb": peak_gpu_mb,
        "images": images,
        "missing": missing,
        "wrong_size": [],
    }


def check_inputs(inputs: dict[str, Path]) -> None:
    """InputError for the first input that is no image: better now than after an hour."""
    for path in inputs.values():
        try:
            probe_apart(read_file(path))
        except ImageError as error:
            raise InputError(f"{path} is {error.reason}: {error.detail}") from None
