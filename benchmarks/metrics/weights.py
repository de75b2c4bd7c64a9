"""Where the learned metrics look for their weights, and what is missing here: package, file or GPU, each by name.

pyiqa takes files from `$TORCH_HOME/hub` (pyiqa/, clip/, checkpoints/) and backbones from the Hugging Face cache. Torch
hub's file names end in the first digits of the sha256, which pyiqa does not check: we do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

from lucidflux_data.errors import ConfigError
from lucidflux_data.iqa import clipiqa
from lucidflux_data.iqa import metrics as iqa

REPOSITORY_URL = "https://huggingface.co/"
PYIQA_URL = f"{REPOSITORY_URL}chaofengc/IQA-PyTorch-Weights/resolve/main/"
TORCHVISION_URL = "https://download.pytorch.org/models/"
CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{clipiqa.WEIGHTS_SHA256}/"
URL_OF = {"pyiqa": PYIQA_URL, "checkpoints": TORCHVISION_URL, "clip": CLIP_URL}

# As pyiqa 0.1.16 asks for them: files below the torch hub folder, and `hf:` repositories of the Hugging Face cache;
# `own:` is what our own CLIP-IQA looks for, in more than one folder.
WEIGHTS: dict[str, tuple[str, ...]] = {
    "clipiqa": ("own:RN50.pt",),
    "clipiqa+": ("clip/RN50.pt", "pyiqa/CLIP-IQA%2B_learned_prompts-603f3273.pth"),
    "musiq": ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    "maniqa": ("pyiqa/ckpt_koniq10k.pt", "hf:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "maniqa-pipal": ("pyiqa/MANIQA_PIPAL-ae6d356b.pth", "hf:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "nima": ("pyiqa/NIMA_InceptionV2_ava-b0c77c00.pth", "hf:timm/inception_resnet_v2.tf_in1k"),
    "qalign": ("hf:q-future/one-align",),
    "topiq_nr": ("pyiqa/cfanet_nr_koniq_res50-9a73138b.pth", "hf:timm/resnet50.a1_in1k"),
    "brisque": ("pyiqa/brisque_svm_weights.pth",),
    "lpips": ("pyiqa/LPIPS_v0.1_alex-df73285e.pth", "checkpoints/alexnet-owt-7be5be79.pth"),
    "dists": ("pyiqa/DISTS_weights-f5e65c96.pth", "checkpoints/vgg16-397923af.pth"),
    "fid": ("pyiqa/pt_inception-2015-12-05-6726825d.pth",),
}
# What is read of a Hugging Face repository; of files in one row, the first that is there. The index names the shards.
_TIMM = (("model.safetensors", "pytorch_model.bin"),)
REPOSITORY_FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    weight: _TIMM for files in WEIGHTS.values() for weight in files if weight.startswith("hf:timm/")
} | {
    "hf:q-future/one-align": (
        ("config.json",),
        ("preprocessor_config.json",),
        ("tokenizer.model", "tokenizer.json"),
        ("pytorch_model.bin.index.json", "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"),
    )
}
# Beyond torch and pyiqa themselves; module name -> what to install.
PACKAGES: dict[str, dict[str, str]] = {
    "clipiqa+": {"pkg_resources": "setuptools<81"},
    "qalign": {"icecream": "icecream"},
}
NEEDS_GPU = ("qalign",)  # 15 GB in fp16; on a CPU it takes minutes an image
NOTHING = ("niqe", "psnr", "ssim", "lr_consistency")


def hub_folder() -> Path:
    """torch.hub.get_dir() without importing torch."""
    # torch's rule, not platformdirs': ~/.cache on every system
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))) / "hub"


def hf_folder() -> Path:
    """The folder of Hugging Face's hub cache, as its library finds it."""
    # ours, since huggingface_hub is no core dependency: `bench doctor` says what is missing without any extra
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    home = _expanded(os.environ.get("HF_HOME", os.path.join(cache, "huggingface")))
    older_name = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    return Path(_expanded(os.environ.get("HF_HUB_CACHE", older_name)))


def _expanded(folder: str) -> str:
    return os.path.expandvars(os.path.expanduser(folder))


def location(weight: str) -> Path:
    """Where a file of WEIGHTS is looked for; of a repository, its folder in the Hugging Face cache."""
    if weight.startswith("hf:"):
        return hf_folder() / ("models--" + weight[3:].replace("/", "--"))
    if weight.startswith("own:"):
        places = [folder / weight[4:] for folder in clipiqa.weight_folders()]
        return next((place for place in places if place.is_file()), places[0])
    return hub_folder() / weight


def source(weight: str) -> str:
    """Where it can be had, on a machine with a network."""
    if weight.startswith("hf:"):
        return REPOSITORY_URL + weight[3:]
    if weight.startswith("own:"):
        return CLIP_URL + weight[4:]
    place, name = weight.split("/")
    return URL_OF[place] + name


def missing_packages(metric: str) -> list[str]:
    """What to install for a metric, [] where nothing is missing."""
    if metric in NOTHING:
        return []
    if metric == "clipiqa":
        wanted = {"torch": "lucidflux[clip]", "open_clip": "lucidflux[clip]"}
    else:
        wanted = {"torch": "lucidflux[iqa]", "pyiqa": "lucidflux[iqa]"} | PACKAGES.get(metric, {})
    return list(
        dict.fromkeys(install for module, install in wanted.items() if importlib.util.find_spec(module) is None)
    )


def missing_weights(metric: str) -> list[tuple[Path, str]]:
    """(file, where it can be had) of everything that a metric lacks; a repository of which nothing is here is one."""
    return [(path, source(weight)) for weight in WEIGHTS.get(metric, ()) for path in _lacking(weight)]


def _lacking(weight: str) -> list[Path]:
    place = location(weight)
    if not weight.startswith("hf:"):
        return [] if place.is_file() else [place]
    snapshot = _snapshot(place)
    if snapshot is None:
        return [place]
    needed = [_first_there(snapshot, names) for names in REPOSITORY_FILES[weight]]
    for index in snapshot.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError):
            return [index]
        needed += [snapshot / shard for shard in sorted(shards)]
    return [path for path in dict.fromkeys(needed) if not path.is_file()]


def _snapshot(repository: Path) -> Path | None:
    """The folder of files that `main` stands for, as huggingface_hub finds it without a network."""
    # not its try_to_load_from_cache: `bench doctor` names what is missing on a machine without that library
    main = repository / "refs" / "main"
    snapshot = repository / "snapshots" / main.read_text().strip() if main.is_file() else None
    return snapshot if snapshot and snapshot.is_dir() else None


def _first_there(snapshot: Path, names: tuple[str, ...]) -> Path:
    """The first of several files that serve alike, the preferred one where none is there."""
    return next((snapshot / name for name in names if (snapshot / name).is_file()), snapshot / names[0])


def published_digits(weight: str) -> str:
    """The first digits of the sha256 that a file was published with, "" where none are known."""
    named = re.search(r"-([0-9a-f]{8})\.\w+$", weight)
    return clipiqa.WEIGHTS_SHA256 if weight.endswith("RN50.pt") else named[1] if named else ""


def wrong_weights(metric: str) -> list[str]:
    """Files whose sha256 is not the published one, or does not begin with the digits that their name ends in."""
    files = [weight for weight in WEIGHTS.get(metric, ()) if location(weight).is_file()]
    return [weight for weight in files if not file_sha256(location(weight)).startswith(published_digits(weight))]


def problem(metric: str, device: str = "cpu") -> str | None:
    """Why a metric cannot run here, as one sentence that names the package, or each file with its folder."""
    if metric not in NOTHING and metric != "fid":
        iqa.metric(metric)
    packages = missing_packages(metric)
    if packages:
        return f"{metric} needs a Python package: pip install {' '.join(repr(name) for name in packages)}"
    files = missing_weights(metric)
    if files:
        places = "; ".join(f"{path.name} in {path.parent} (from {origin})" for path, origin in files)
        return f"{metric} needs weights that are not here: {places}"
    wrong = wrong_weights(metric)
    if wrong:
        return f"{metric} has damaged weights: {location(wrong[0])} does not have the sha256 that it was published with"
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
        snapshot = _snapshot(location(file)) if file.startswith("hf:") else None
        for part in sorted(snapshot.iterdir()) if snapshot else [location(file)]:
            if part.is_file():  # the large blobs of a snapshot are named by their sha256
                sha256 = part.resolve().name if part.is_symlink() else file_sha256(part)
                total.update(f"{part.name}\0{sha256}\n".encode())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
