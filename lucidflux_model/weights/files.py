"""Hashes of weight files. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lucidflux_data.errors import InputError
from lucidflux_data.storage.formats import parse_json

WEIGHTS_FILE = "weights.json"  # in a converted folder: sha256 of every file


def file_sha256(path: Path) -> str:
    """Hex. Raises InputError where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 5)}") from None


def folder_hashes(folder: Path) -> dict[str, str]:
    """File -> sha256 as weights.json lists them; computed where there is none."""
    try:
        return dict(parse_json((folder / WEIGHTS_FILE).read_text())["files"])
    except FileNotFoundError:
        return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))}
    except (ValueError, KeyError):
        raise InputError(f"{folder / WEIGHTS_FILE} is damaged") from None
