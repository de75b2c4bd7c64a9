"""Reading weight files as tensors alone, without running code: safetensors, and what torch wrote."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lucidflux_data.errors import InputError
from lucidflux_data.messages import UnpackError

MARK = "contaminated"  # suites that weights were validated on: lucidflux_model/contamination.py


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file (mapped, not read) or of a torch pickle, nested names joined by dots.

    A pickle that holds anything but tensors and containers is refused, and never run. Raises InputError.
    """
    flat: dict[str, Tensor] = {}
    _flatten(read_content(path), "", flat)
    if not flat:
        raise InputError(f"{path} holds no tensors")
    return flat


def read_content(path: Path) -> Mapping[str, Any]:
    """What such a file holds, nested as it is: tensors by name, and whatever plain values a pickle has beside them.
    Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path} is not there")
    if path.suffix.lower() == ".safetensors":
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no tensors by name")
    _check_sums(path)
    return content


def read_mark(path: Path) -> list[str]:
    """Names of the suites that a file of trained weights was validated on, as `save_lucidflux` writes them."""
    if not path.is_file():
        raise InputError(f"{path} is not there")
    if path.suffix.lower() == ".safetensors":
        with _opened(path) as file:
            named = (file.metadata() or {}).get(MARK, "")
    else:
        content = _unpickled(path)
        named = content.get(MARK, "") if isinstance(content, Mapping) else ""
    return sorted({name for name in named.split(",") if name})


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError):
        raise InputError(f"{path} is not a complete safetensors file") from None


def _unpickled(path: Path) -> Any:
    """Tensors are mapped, not read."""
    if _is_script(path):
        raise InputError(f"{path} is TorchScript, which is code, and is not opened: take the file of tensors instead")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle protocol: what cannot be read is said in our sentence
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except UnpackError:
        raise InputError(f"{path} is not a plain file of tensors (it would have to run code to load)") from None
    except (RuntimeError, EOFError, ValueError, KeyError):
        raise InputError(f"{path} is damaged or not a file that torch wrote") from None


def _check_sums(path: Path) -> None:
    """InputError where a part of a zip that torch wrote is not what its crc32 says: torch itself does not look."""
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        damaged = "its table of contents"
    if damaged is not None:
        raise InputError(f"{path} is damaged: the checksum of {damaged} is another")


def _is_script(path: Path) -> bool:
    """Whether it is a TorchScript archive: a zip with the source of its module in it."""
    try:
        with zipfile.ZipFile(path) as file:
            return any("/code/" in name for name in file.namelist())
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return False


def _is_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _flatten(content: Any, prefix: str, flat: dict[str, Tensor]) -> None:
    if isinstance(content, Mapping):
        for key, value in content.items():
            _flatten(value, f"{prefix}.{key}" if prefix else str(key), flat)
    elif isinstance(content, Tensor):
        flat[prefix] = content


AT_A_TIME = 1 << 24  # numbers: the backbone's largest tensor is looked at in parts


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of it is NaN or infinite; integers never are."""
    if not tensor.is_floating_point():
        return True
    parts = tensor.flatten().split(AT_A_TIME)
    return all(bool(torch.isfinite(part.float() if part.dtype.itemsize == 1 else part).all()) for part in parts)
