"""`lucidflux weights convert` and `verify`: from a folder of published files to a folder for `from_pretrained`.

    FILES/  lucidflux.pth, flux1-dev.safetensors, ae.safetensors, general_swinir_v1.ckpt, prompt_embeddings.pt, siglip2/
    OUT/    model_index.json, <component>/config.json and safetensors, weights.json with the sha256 of every file

Tensors are taken from the mapped files and written shard by shard, so that 24 GB of backbone pass through 5 GB of
memory. Everything is written into a folder beside OUT that takes its place at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.lease import NAME as LEASE
from lucidflux_data.storage.lease import hold
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.network.build import CLASSES, ModelSizes, build, sizes_of
from lucidflux_model.network.prompt import PROMPT, PromptEmbeddings
from lucidflux_model.network.schedule import make_scheduler
from lucidflux_model.training.contamination import read_mark
from lucidflux_model.weights import layouts
from lucidflux_model.weights.files import WEIGHTS_FILE, file_sha256, folder_hashes
from lucidflux_model.weights.published import (
    LUCIDFLUX_PARTS,
    check_parts,
    layouts_of,
    save_lucidflux,
    split_prefix,
    strip_wrappers,
)
from lucidflux_model.weights.tensors import is_finite, read_tensors
from lucidflux_model.weights.writing import aside, share, write_tensors

SHARD_BYTES = 5e9
STEM = "diffusion_pytorch_model"  # diffusers' file name
PUBLISHED_FILES = {  # component -> names its file may have
    "conditioner": ("lucidflux.pth", "lucidflux.safetensors"),
    "connector": ("lucidflux.pth", "lucidflux.safetensors"),
    "transformer": ("flux1-dev.safetensors",),
    "vae": ("ae.safetensors",),
    "proxy": ("general_swinir_v1.ckpt", "swinir.pth", "swinir.safetensors"),
    "prompt": ("prompt_embeddings.pt", "prompt_embeddings.safetensors"),
    "image_encoder": ("siglip2",),
}
FLOAT32 = ("proxy", "vae")  # published in float32, and used so by numerics="parity"


class WeightsIndex(TypedDict):
    """weights.json of a folder of converted weights."""

    schema_version: int
    model: str
    files: dict[str, str]  # path below the folder -> sha256
    contaminated: NotRequired[list[str]]  # suites that the weights were validated on


class Verified(TypedDict):
    """What `lucidflux weights verify --json` prints."""

    model: str
    files: int
    verified: bool


def convert(
    files: Path, out: Path, model: str = "flux-dev", say: Callable[[str], None] = print, wait_s: float = 0.0
) -> dict[str, str]:
    """Gives file -> sha256 of the new folder. Raises InputError naming what is missing or wrong, before writing, and
    FolderBusy where another conversion into `out` is at work for longer than `wait_s` seconds."""
    sizes = sizes_of(model)
    _check_new(out)
    part = out.with_name(f"{out.name}.part")
    with hold(Folder(part), wait_s, new=True):  # another conversion into OUT would take away what this one wrote
        _check_new(out)
        try:
            _empty(part)
            sources = find_sources(files)
            hashes = _write_parts(part, sources, sizes, model, say)
            part.rename(out)
            (out / LEASE).unlink()
        finally:
            _empty(part)
    return hashes


def _check_new(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"{out} is there already: choose another --out, or remove it")


def _empty(part: Path) -> None:
    """Takes away what is in a folder, but for its lease."""
    for path in part.iterdir() if part.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LEASE:
            path.unlink(missing_ok=True)


def _write_parts(
    part: Path, sources: Mapping[str, Path], sizes: ModelSizes, model: str, say: Callable[[str], None]
) -> dict[str, str]:
    dtype = torch.float32 if model == "tiny" else torch.bfloat16
    components = build(sizes, "meta", dtype)
    for name, component in components.items():
        say(f"{name}: {sources[name].name}")
        _convert_one(name, component, sources[name], part / name, torch.float32 if name in FLOAT32 else dtype)
    write_index(part, components)
    share(*part.rglob("*.safetensors"))
    written = (path for path in sorted(part.rglob("*")) if path.is_file() and path.name != LEASE)
    hashes = {str(path.relative_to(part)): file_sha256(path) for path in written}
    about: WeightsIndex = {"schema_version": 1, "model": model, "files": hashes}
    if mark := read_mark(sources["conditioner"]):
        about["contaminated"] = mark
    (part / WEIGHTS_FILE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    return hashes


def find_sources(files: Path) -> dict[str, Path]:
    found, missing = {}, []
    for name, candidates in PUBLISHED_FILES.items():
        path = next((files / candidate for candidate in candidates if (files / candidate).exists()), None)
        if path is None:
            missing.append(candidates[0])
        else:
            found[name] = path
    if missing:
        hint = "; `lucidflux weights prompt` makes prompt_embeddings" if "prompt_embeddings.pt" in missing else ""
        raise InputError(f"{files} has no {', '.join(dict.fromkeys(missing))}: see `lucidflux weights download`{hint}")
    return found


def _convert_one(name: str, component: Any, source: Path, folder: Path, dtype: torch.dtype) -> None:
    if name == "image_encoder":
        _convert_siglip(component, source, folder, dtype)
    elif name == "prompt":
        read_prompt(source, component).to(dtype).save_pretrained(folder)
    else:
        write_shards(_converted(name, component, source), folder, dtype)
        component.save_config(folder)


def _converted(name: str, component: Any, source: Path) -> dict[str, Tensor]:
    """Our state dict, of mapped tensors."""
    published = strip_wrappers(read_tensors(source))
    parts = layouts_of(name, component)
    if source.name.startswith("lucidflux."):
        check_parts(source, published, LUCIDFLUX_PARTS)
        pieces = {part: strip_wrappers(split_prefix(published, part)) for part in parts}
    else:
        pieces = {next(iter(parts)): published}
    state = {}
    for part, (module, entries) in parts.items():
        prefix = next(key for key, child in component.named_modules() if child is module)
        ours = layouts.from_published(entries, pieces[part], module, f"{source}: {part}")
        state.update({f"{prefix}.{key}" if prefix else key: tensor for key, tensor in ours.items()})
    return state


def write_shards(state: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    """safetensors in diffusers' layout: one file, or several and an index."""
    from huggingface_hub import split_torch_state_dict_into_shards

    folder.mkdir(parents=True)
    # sizes as they will be written; on `meta`, so that nothing is read and tied tensors are written as often as named
    written = {key: torch.empty(tensor.shape, dtype=dtype, device="meta") for key, tensor in state.items()}
    split = split_torch_state_dict_into_shards(
        written, filename_pattern=f"{STEM}{{suffix}}.safetensors", max_shard_size=int(SHARD_BYTES)
    )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for name, keys in split.filename_to_tensors.items():
        tensors = {key: state[key].to(dtype, copy=True).contiguous() for key in keys}
        save_file(tensors, folder / name, metadata={"format": "pt"})


def _convert_siglip(component: Any, source: Path, folder: Path, dtype: torch.dtype) -> None:
    """The vision tower of a snapshot that may hold both towers."""
    from transformers import SiglipVisionModel

    try:
        loaded, info = SiglipVisionModel.from_pretrained(
            str(source), dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{source} is not a SigLIP2 snapshot: {str(error).splitlines()[0]}") from None
    if info["missing_keys"]:
        raise InputError(f"{source} lacks {', '.join(sorted(info['missing_keys'])[: layouts.NAMED])}")
    found = {key: tuple(tensor.shape) for key, tensor in loaded.state_dict().items()}
    layouts.check(str(source), found, {key: tuple(tensor.shape) for key, tensor in component.state_dict().items()})
    loaded.save_pretrained(folder)


def read_prompt(source: Path, like: PromptEmbeddings) -> PromptEmbeddings:
    """prompt_embeddings.pt (`txt` 1 x tokens x width, `vec` 1 x width), checked against the sizes of `like`."""
    state = strip_wrappers(read_tensors(source))
    wanted = {"txt": tuple(like.text.shape), "vec": tuple(like.pooled.shape)}
    layouts.check(str(source), {key: tuple(tensor.shape) for key, tensor in state.items()}, wanted)
    prompt: PromptEmbeddings = PromptEmbeddings(*like.text.shape[1:], like.pooled.shape[1])
    prompt.text.data.copy_(state["txt"])
    prompt.pooled.data.copy_(state["vec"])
    return prompt


def write_index(folder: Path, components: Mapping[str, nn.Module]) -> None:
    """model_index.json and the scheduler's config, as save_pretrained writes them."""
    scheduler = make_scheduler()
    scheduler.save_pretrained(folder / "scheduler")
    LucidFluxPipeline(**components, scheduler=scheduler).save_config(folder)


def export(folder: Path, out: Path) -> None:
    """The trained parts of a converted folder as lucidflux.pth or .safetensors."""
    loaded = {}
    for name in ("conditioner", "connector"):
        if not (folder / name / "config.json").is_file():
            raise InputError(f"{folder} is not a folder of converted weights: it has no {name}")
        loaded[name] = CLASSES[name].from_pretrained(
            folder / name, dtype="auto", local_files_only=True, use_safetensors=True
        )
    save_lucidflux(loaded["conditioner"], loaded["connector"], out, read_mark(folder))


def verify(folder: Path) -> Verified:
    """Hashes against weights.json, keys and shapes against the model, and that all numbers are finite. Raises
    VerificationError."""
    try:
        model = parse_json((folder / WEIGHTS_FILE).read_text())["model"]
    except (OSError, ValueError, KeyError):
        raise VerificationError(f"{folder} has no readable {WEIGHTS_FILE}: it was not converted to the end") from None
    wrong = []
    hashes = folder_hashes(folder)
    for name, sha256 in hashes.items():
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif file_sha256(folder / name) != sha256:
            wrong.append(f"{name} has changed")
    if not wrong:
        wrong = list(_wrong_tensors(folder, sizes_of(model)))
    if wrong:
        raise VerificationError(f"{folder}: {'; '.join(wrong)}")
    return {"model": model, "files": len(hashes), "verified": True}


def _wrong_tensors(folder: Path, sizes: ModelSizes) -> Iterator[str]:
    """Keys and shapes that are not the model's, and tensors that hold what is no finite number."""
    for name, component in build(sizes).items():
        found: dict[str, tuple[int, ...]] = {}
        broken = []
        for path in sorted((folder / name).glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    tensor = file.get_tensor(key)
                    # transformers writes the tower's keys as they stand in files of both towers
                    found[key.removeprefix("vision_model.")] = tuple(tensor.shape)
                    if not is_finite(tensor):
                        broken.append(key)
        if broken:
            more = f" and {len(broken) - layouts.NAMED} more" if len(broken) > layouts.NAMED else ""
            yield f"{name} holds NaN or infinity in {', '.join(broken[: layouts.NAMED])}{more}"
        try:
            layouts.check(name, found, {key: tuple(tensor.shape) for key, tensor in component.state_dict().items()})
        except InputError as error:
            yield str(error)


def compute_prompt(encoders: Path, out: Path, prompt: str = PROMPT) -> dict[str, list[int]]:
    """Embeds the prompt with T5 and CLIP of a FLUX.1-dev folder (text_encoder, tokenizer, ..._2), once, in float32."""
    from diffusers import FluxPipeline

    try:
        pipeline = FluxPipeline.from_pretrained(
            str(encoders), transformer=None, vae=None, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{encoders} holds no text encoders of FLUX.1-dev: {str(error).splitlines()[0]}") from None
    with torch.no_grad():
        text, pooled, _ = pipeline.encode_prompt(prompt, None, max_sequence_length=512)
    tensors = {"txt": text.to(torch.bfloat16), "vec": pooled.to(torch.bfloat16)}
    with aside(out) as part:
        write_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"prompt": prompt})
    return {name: list(tensor.shape) for name, tensor in tensors.items()}
