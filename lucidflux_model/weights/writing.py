"""Writes safetensors with the permissions that any new file gets: the library makes them for their owner alone."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """`tensors` are contiguous. Raises what the disk and the library raise (OSError, SafetensorError)."""
    save_file(dict(tensors), path, metadata=metadata)
    share(path)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Where to write what then takes its place at `path`, by one rename; an error leaves what was there."""
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def share(*paths: Path) -> None:
    """Gives files of one folder the permissions of a new one there, as the umask or the folder's defaults have it."""
    for path in paths:
        probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        probe.touch()
        try:
            os.chmod(path, probe.stat().st_mode & 0o777)
        finally:
            probe.unlink()
