"""Writes safetensors with the permissions that any new file gets: the library makes them for their owner alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """`tensors` are contiguous. Raises what the disk and the library raise (OSError, SafetensorError)."""
    save_file(dict(tensors), path, metadata=metadata)
    share(path)


def share(*paths: Path) -> None:
    """Gives files of one folder the permissions of a new one there, as the umask or the folder's defaults have it."""
    for path in paths:
        probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        probe.touch()
        try:
            os.chmod(path, probe.stat().st_mode & 0o777)
        finally:
            probe.unlink()
