"""The files that the learned metrics read, and where the libraries look for them.

pyiqa takes files from `$TORCH_HOME/hub` (pyiqa/, clip/, checkpoints/) and backbones from the Hugging Face cache.
"""

from __future__ import annotations

import os
from pathlib import Path

from lucidflux_data.storage.cache import own_cache
from lucidflux_data.storage.formats import parse_json

# As pyiqa 0.1.16 asks for them: files below the torch hub folder, and `hf:` repositories of the Hugging Face cache;
# `own:` is what our own CLIP-IQA looks for, in more than one folder.
WEIGHTS: dict[str, tuple[str, ...]] = {
    "clipiqa": ("own:RN50.pt",),
    "feature_distance": ("own:RN50.pt",),
    "feature_distance_lq": ("own:RN50.pt",),
    "clipiqa+": ("clip/RN50.pt", "pyiqa/CLIP-IQA%2B_learned_prompts-603f3273.pth"),
    "musiq": ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",),
    "maniqa": ("pyiqa/ckpt_koniq10k.pt", "hf:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "maniqa-pipal": ("pyiqa/MANIQA_PIPAL-ae6d356b.pth", "hf:timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"),
    "nima": ("pyiqa/NIMA_InceptionV2_ava-b0c77c00.pth", "hf:timm/inception_resnet_v2.tf_in1k"),
    "qalign": ("hf:q-future/one-align",),
    "topiq_nr": ("pyiqa/cfanet_nr_koniq_res50-9a73138b.pth", "hf:timm/resnet50.a1_in1k"),
    "liqe_mix": ("clip/ViT-B-32.pt", "pyiqa/liqe_mix.pt"),
    "fgresq": ("hf:openai/clip-vit-base-patch16", "pyiqa/FGResQ_Degradation.pth", "pyiqa/FGResQ.pth"),
    "qrealign-mini": ("hf:q-future/Q-ReAlign-Mini-0.8B",),
    "afine_all_scale": ("clip/ViT-B-32.pt", "pyiqa/afine.pth"),
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
    ),
    "hf:openai/clip-vit-base-patch16": (("config.json",), ("model.safetensors", "pytorch_model.bin")),
    "hf:q-future/Q-ReAlign-Mini-0.8B": (
        ("config.json",),
        ("preprocessor_config.json", "processor_config.json"),
        ("tokenizer.json",),
        ("tokenizer_config.json",),
        ("chat_template.jinja", "chat_template.json"),
        ("model.safetensors.index.json", "model.safetensors"),
    ),
}
INDEX = "*.index.json"


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


def own_folders() -> list[Path]:
    """Where our own CLIP-IQA looks, in order: $LUCIDFLUX_WEIGHTS, then the caches of the tools that fetch its file."""
    # the other tools have ~/.cache on every system
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub = Path(os.environ.get("TORCH_HOME") or cache / "torch") / "hub"
    own = os.environ.get("LUCIDFLUX_WEIGHTS")
    return [*([Path(own)] if own else []), own_cache(), cache / "clip", hub / "clip", hub / "pyiqa"]


def location(weight: str) -> Path:
    """Where a file of WEIGHTS is looked for; of a repository, its folder in the Hugging Face cache."""
    if weight.startswith("hf:"):
        return hf_folder() / ("models--" + weight[3:].replace("/", "--"))
    if weight.startswith("own:"):
        places = [folder / weight[4:] for folder in own_folders()]
        return next((place for place in places if place.is_file()), places[0])
    return hub_folder() / weight


def snapshot(repository: Path) -> Path | None:
    """The folder of files that `main` stands for, as huggingface_hub finds it without a network."""
    # not its try_to_load_from_cache: `bench doctor` names what is missing on a machine without that library
    main = repository / "refs" / "main"
    found = repository / "snapshots" / main.read_text().strip() if main.is_file() else None
    return found if found and found.is_dir() else None


def read_files(weight: str) -> list[Path]:
    """The files that are read of an entry of WEIGHTS, whether they are there or not; of a repository of which nothing
    is here, its folder."""
    place = location(weight)
    if not weight.startswith("hf:"):
        return [place]
    found = snapshot(place)
    if found is None:
        return [place]
    needed = [_first_there(found, names) for names in REPOSITORY_FILES[weight]]
    needed += [found / shard for index in found.glob(INDEX) for shard in _shards(index) or []]
    return list(dict.fromkeys(needed))


def missing_files(weight: str) -> list[Path]:
    """Those of `read_files` that are not here, or an index that cannot be read."""
    found = snapshot(location(weight)) if weight.startswith("hf:") else None
    damaged = [index for index in found.glob(INDEX) if _shards(index) is None] if found else []
    return damaged or [path for path in read_files(weight) if not path.is_file()]


def _shards(index: Path) -> list[str] | None:
    """The names of the files that an index of shards names, None where it cannot be read."""
    try:
        return sorted(set(map(str, parse_json(index.read_text())["weight_map"].values())))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return None


def _first_there(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of several files that serve alike, the preferred one where none is there."""
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
