"""How images go through a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Images = Sequence[np.ndarray]
Embed = Callable[[Images], Tensor]  # uint8 HxWx3 RGB images of any sizes -> float32 (n, d)


def in_batches(prepare: Callable[[np.ndarray], Tensor], network: Callable[[Tensor], Tensor], device: str) -> Embed:
    """Images, prepared (3 x H x W, one size) and put through a network: together on a GPU, one by one elsewhere."""

    def embed(images: Images) -> Tensor:
        batch = torch.stack([prepare(image) for image in images]).to(device)
        return torch.cat([network(part) for part in batch.split(1 if device == "cpu" else len(batch))])

    return embed
