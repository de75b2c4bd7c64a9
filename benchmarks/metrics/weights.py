"""What a learned metric lacks here: package, file or GPU, each by name, and where it can be had."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from benchmarks.metrics import outside
from benchmarks.metrics.terms import TERMS
from lucidflux_data.errors import ConfigError
from lucidflux_data.iqa import metrics as iqa
from lucidflux_data.iqa.fetch import source
from lucidflux_data.iqa.pins import file_sha256, unpinned
from lucidflux_data.iqa.weight_files import WEIGHTS, location, missing_files, snapshot

# Beyond torch and pyiqa themselves; module name -> what to install.
PACKAGES: dict[str, dict[str, str]] = {
    "clipiqa+": {"pkg_resources": "setuptools<81"},
    "qalign": {"icecream": "icecream"},
    "liqe_mix": {"pkg_resources": "setuptools<81"},
}
NEEDS_GPU = ("qalign",)  # 15 GB in fp16; on a CPU it takes minutes an image
FEATURES = ("feature_distance", "feature_distance_lq")  # of CLIP RN50: to the reference, to the enlarged input
NOTHING = ("niqe", "psnr", "ssim", "lr_consistency", *TERMS)


def missing_packages(metric: str) -> list[str]:
    """What to install for a metric, [] where nothing is missing."""
    if metric in NOTHING:
        return []
    if metric in ("clipiqa", *FEATURES):
        wanted = {"torch": "lucidflux[clip]", "open_clip": "lucidflux[clip]"}
    else:
        wanted = {"torch": "lucidflux[iqa]", "pyiqa": "lucidflux[iqa]"} | PACKAGES.get(metric, {})
    return list(
        dict.fromkeys(install for module, install in wanted.items() if importlib.util.find_spec(module) is None)
    )


def missing_weights(metric: str) -> list[tuple[Path, str]]:
    """(file, where it can be had) of everything that a metric lacks; a repository of which nothing is here is one."""
    return [(path, source(weight)) for weight in WEIGHTS.get(metric, ()) for path in missing_files(weight)]


def wrong_weights(metric: str) -> dict[str, str]:
    """Entries of WEIGHTS with a file that is not opened, since its sha256 is neither pinned nor trusted, and why."""
    found = {weight: unpinned(weight) for weight in WEIGHTS.get(metric, ())}
    return {weight: problems[0] for weight, problems in found.items() if problems}


def problem(metric: str, device: str = "cpu") -> str | None:
    """Why a metric cannot run here, as one sentence that names the package, or each file with its folder."""
    if metric not in iqa.METRICS and metric in outside.outside_names():
        return outside.problem(metric)
    if metric not in (*NOTHING, *FEATURES) and metric != "fid":
        iqa.metric(metric)
    packages = missing_packages(metric)
    if packages:
        return f"{metric} needs a Python package: pip install {' '.join(repr(name) for name in packages)}"
    files = missing_weights(metric)
    if files:
        places = "; ".join(f"{path.name} in {path.parent} (from {origin})" for path, origin in files)
        return f"{metric} needs weights that are not here: {places}: `lucidflux weights download {metric}` fetches them"
    wrong = wrong_weights(metric)
    if wrong:
        return f"{metric} cannot be loaded: {next(iter(wrong.values()))}"
    if metric in NEEDS_GPU and device == "cpu":
        return (
            f"{metric} needs a GPU with 16 GB: none is in use (--num-gpus 1). On a CPU it takes minutes an image and "
            f"16 GB a process: --metrics {metric} --num-cpus 1 asks for that"
        )
    return None


def digest_of(metric: str) -> str:
    """sha256 over the weights a metric loads, `none` where it has none. ConfigError where one is missing."""
    files = WEIGHTS.get(metric, ())
    if not files:
        return "none"
    if missing_weights(metric):
        raise ConfigError(str(problem(metric)))
    total = hashlib.sha256()
    for file in files:
        folder = snapshot(location(file)) if file.startswith("hf:") else None
        for part in sorted(folder.iterdir()) if folder else [location(file)]:
            if part.is_file():  # the large blobs of a snapshot are named by their sha256
                sha256 = part.resolve().name if part.is_symlink() else file_sha256(part)
                total.update(f"{part.name}\0{sha256}\n".encode())
    return total.hexdigest()
