"""The files of one checkpoint: tensors as safetensors, all else as JSON, and the sha256 of each.

    rank-00000.safetensors, ...   what each process held of the tensors
    checkpoint.json               tensors: dtype, shape and pieces by name; values: what is no tensor
    checksums.json                written last: sha256 of every other file

Any number of processes can read what any number has written: a piece has its place in the whole tensor.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.weights.files import file_sha256
from lucidflux_model.weights.tensors import is_finite
from lucidflux_model.weights.writing import write_tensors

ABOUT, SUMS = "checkpoint.json", "checksums.json"
FORMAT = 1
_FILE = re.compile(r"rank-[0-9]{5}\.safetensors")
_CODE = re.compile(r"code: (\d+)|os error (\d+)")  # how the library tells of an error of the system


class Place(NamedTuple):
    """A part of a tensor: its first index and its size in every dimension."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def flatten(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of what is no mapping; names of inner mappings are joined by dots."""
    for name, value in state.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def local_place(tensor: Tensor) -> Place:
    """Which part of the whole this process holds."""
    if not isinstance(tensor, DTensor):
        return Place((0,) * tensor.ndim, tuple(tensor.shape))
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Place(tuple(offsets), tuple(sizes))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _is_split(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor) and any(placement.is_shard() for placement in tensor.placements)


def write_part(folder: Path, state: Mapping[str, Any], rank: int, world: int) -> None:
    """What this process has of the tensors; of those that all have whole, each process writes some. OSError where it
    cannot be written."""
    mine, pieces = {}, {}
    tensors = [(name, value.detach()) for name, value in flatten(state) if isinstance(value, Tensor)]
    for number, (name, tensor) in enumerate(tensors):
        local, place = _local(tensor), local_place(tensor)
        if local.numel() == 0 or not (_is_split(tensor) or number % world == rank):
            continue
        mine[name] = local.cpu().contiguous()
        pieces[name] = {"offsets": place.offsets, "sizes": place.sizes, "shape": list(tensor.shape)}
    path = folder / f"rank-{rank:05d}.safetensors"
    try:
        write_tensors(mine, path)
    except SafetensorError as error:
        code = _CODE.search(str(error))
        if code is None:
            raise
        number = int(code[1] or code[2])
        raise OSError(number, os.strerror(number)) from None
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    about = {"file": path.name, "sha256": file_sha256(path), "pieces": pieces}
    write_text(folder / f".rank-{rank:05d}.json", json.dumps(about))


def find_broken(folder: Path) -> list[str]:
    """The weights and averages of a checkpoint that hold NaN or infinity; none of a form before safetensors."""
    broken = set()
    for path in sorted(folder.glob("rank-*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key.startswith(("model.", "ema.")) and not is_finite(file.get_tensor(key)):
                    broken.add(key)
    return sorted(broken)


def write_about(folder: Path, state: Mapping[str, Any], world: int, more: Mapping[str, str]) -> None:
    """By process 0, after all have written their parts: `checkpoint.json`, the files of `more` (name, text), sums."""
    dtypes = {name: value for name, value in flatten(state) if isinstance(value, Tensor)}
    tensors: dict[str, Any] = {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "pieces": []}
        for name, tensor in dtypes.items()
    }
    sums = {}
    for rank in range(world):
        note = folder / f".rank-{rank:05d}.json"
        part = parse_json(note.read_text())
        note.unlink()
        sums[part["file"]] = part["sha256"]
        for name, piece in part["pieces"].items():
            place = {"file": part["file"], "offsets": piece["offsets"], "sizes": piece["sizes"]}
            tensors[name]["pieces"].append(place)
    values = {name: value for name, value in flatten(state) if not isinstance(value, Tensor)}
    about = {"format": FORMAT, "tensors": tensors, "values": values}
    for name, text in {ABOUT: json.dumps(about, sort_keys=True), **more}.items():
        write_text(folder / name, text)
        sums[name] = file_sha256(folder / name)
    write_text(folder / SUMS, json.dumps(sums, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def is_of_safetensors(folder: Path) -> bool:
    """Whether a checkpoint has this form; older ones are torch's distributed checkpoints."""
    return (folder / ABOUT).exists() or (folder / SUMS).exists()


def check_sums(folder: Path) -> bool:
    """Whether the files were compared with their sums; an older checkpoint has none. VerificationError (exit 6) for a
    file that is another one, missing, or in no sum."""
    if not is_of_safetensors(folder):
        return False
    try:
        sums = parse_json((folder / SUMS).read_text())
        listed = {str(name): str(sha256) for name, sha256 in sums.items()}
    except (OSError, ValueError, AttributeError):
        raise VerificationError(f"{folder / SUMS} is damaged or missing: {_RESUME}") from None
    there = {path.name for path in folder.iterdir()} - {SUMS}
    odd = sorted(there ^ listed.keys())
    if odd:
        raise VerificationError(f"{folder / odd[0]} is {'in no checksum' if odd[0] in there else 'missing'}: {_RESUME}")
    for name, sha256 in sorted(listed.items()):
        if file_sha256(folder / name) != sha256:
            raise VerificationError(
                f"{folder / name} is damaged (its sha256 is another than when it was saved): {_RESUME}"
            )
    return True


_RESUME = "put the name of an earlier checkpoint into `latest` to go on from that"


def read_about(folder: Path) -> dict[str, Any]:
    """checkpoint.json. InputError where it is not one of ours."""
    try:
        about: dict[str, Any] = parse_json((folder / ABOUT).read_text())
        if about["format"] != FORMAT:
            raise InputError(f"{folder} was saved by a later version: its format is {about['format']}, not {FORMAT}")
        return about
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} is no checkpoint, or a damaged one") from None


def list_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of each tensor of a checkpoint."""
    tensors = read_about(folder)["tensors"]
    return {name: (torch.Size(entry["shape"]), getattr(torch, entry["dtype"])) for name, entry in tensors.items()}


def fill(folder: Path, state: dict[str, Any]) -> None:
    """The tensors of `state` in place, as much of each as this process holds, and what is no tensor. InputError for
    names or shapes that differ."""
    about = read_about(folder)
    opened: dict[str, Any] = {}  # of a thousand tensors each would parse the header of its file again
    with torch.no_grad():
        for name, value in flatten(state):
            if isinstance(value, Tensor):
                entry = about["tensors"].get(name)
                if entry is None or list(value.shape) != entry["shape"]:
                    raise InputError(f"{folder} is a checkpoint of another model: {name} differs")
                _fill_tensor(folder, name, value, entry["pieces"], opened)
    _set_values(state, about["values"])


def _fill_tensor(folder: Path, name: str, tensor: Tensor, pieces: list[dict[str, Any]], opened: dict[str, Any]) -> None:
    place, target, filled = local_place(tensor), _local(tensor), 0
    for piece in pieces:
        if not _FILE.fullmatch(piece["file"]):
            raise InputError(f"{folder / ABOUT} names {piece['file']}, which is no file of a checkpoint")
        begin = [max(a, b) for a, b in zip(place.offsets, piece["offsets"], strict=True)]
        ends = zip(place.offsets, place.sizes, piece["offsets"], piece["sizes"], strict=True)
        end = [min(a + size, b + other) for a, size, b, other in ends]
        if any(last <= first for first, last in zip(begin, end, strict=True)):
            continue
        there = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, piece["offsets"], strict=True))
        here = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, place.offsets, strict=True))
        try:
            file = opened.get(piece["file"]) or safe_open(folder / piece["file"], "pt")
            opened[piece["file"]] = file
            found = file.get_slice(name)[there] if there else file.get_tensor(name)
        except (OSError, SafetensorError):
            raise InputError(f"{folder / piece['file']} is damaged, or has no {name}") from None
        target[here].copy_(found) if here else target.copy_(found)
        filled += found.numel()
    if filled != target.numel():
        raise InputError(f"{folder} has only a part of {name}")


def _set_values(state: dict[str, Any], values: Mapping[str, Any], prefix: str = "") -> None:
    for name, value in state.items():
        if isinstance(value, dict) and value:
            _set_values(value, values, f"{prefix}{name}.")
        elif not isinstance(value, Tensor) and f"{prefix}{name}" in values:
            state[name] = values[f"{prefix}{name}"]
