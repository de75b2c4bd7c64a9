"""Stored pairs as a torch Dataset, with the items of RealESRGANPairs."""

from __future__ import annotations

import torch

from lucidflux_data.pairs.dataset import Item, as_tensor
from lucidflux_data.pairs.pair import Pair
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.surface.stored import StoredPairs


class PairsDataset(torch.utils.data.Dataset):  # type: ignore[misc]  # mypy does not follow torch
    """The pairs of a folder by their place. Each worker of a DataLoader reads for itself."""

    def __init__(self, pairs: StoredPairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        return as_item(self.pairs[index])


def as_item(pair: Pair) -> Item:
    """A pair as tensors; `key`: of its image."""
    plan = parse_json(pair.members["json"])["plan"]
    return {"hq": as_tensor(pair.hq), "lq": as_tensor(pair.lq), "key": plan["hq_key"], "variant": plan["variant"]}
