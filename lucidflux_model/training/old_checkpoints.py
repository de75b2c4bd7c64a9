"""Checkpoints of versions before 0.3: torch's distributed checkpoints, whose `.metadata` is a pickle.

The one module that reads a pickle. Only names of a list are found in it, so nothing that a stranger put there is
called; the next save writes the form of `checkpoint_files`.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

METADATA = ".metadata"
_OF_METADATA = (
    *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
    *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
)
_TYPES = [name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)]
ALLOWED = frozenset(
    {
        *(("torch.distributed.checkpoint.metadata", name) for name in _OF_METADATA),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),  # where it was saved
        *(("torch", name) for name in _TYPES),
    }
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        metadata = _read_metadata(Path(self.path))
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    """What is no tensor is read with `weights_only`, which torch's own planner does not ask for."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        loaded = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)


def _read_metadata(folder: Path) -> Metadata:
    try:
        with open(folder / METADATA, "rb") as file:
            metadata = _Unpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, ImportError, TypeError, KeyError) as error:
        raise ValueError(f"its {METADATA} cannot be read: {error}") from None
    if not isinstance(metadata, Metadata):
        raise ValueError(f"its {METADATA} is something else")
    return metadata


def list_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of each tensor. OSError or ValueError for what is no checkpoint."""
    entries = _read_metadata(folder).state_dict_metadata
    tensors = {key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    return {key: (entry.size, entry.properties.dtype) for key, entry in tensors.items()}


def fill(folder: Path, state: dict[str, Any], alone: bool) -> None:
    """As `checkpoint_files.fill`; raises whatever torch raises. `alone`: there are no other processes."""
    dcp.load(state, storage_reader=_Reader(folder), planner=_Planner(), no_dist=alone)
