"""A ready scorer as `score --scorer` calls it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lucidflux_data.errors import needs_extra
from lucidflux_model.embedding.known import weight_files


class ReadyScorer:
    """Called with uint8 HxWx3 RGB images: {NAME: float32 (n, d), rows of length 1}. On a CPU images go through the
    network one by one, so that a vector does not depend on those beside it.

    ConfigError where a file or a package is missing, InputError where a file is not what it should be."""

    def __init__(self, spec: str, device: str = "cpu") -> None:
        self.name = spec.partition("=")[0]
        place = weight_files(spec)[0]
        with needs_extra("embeddings"):
            if self.name == "sscd":
                from lucidflux_model.embedding.sscd import load_sscd

                self._embed = load_sscd(place, device)
            else:
                from lucidflux_model.embedding.towers import load_tower

                self._embed = load_tower(self.name, place.parent, device)

    def __call__(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(self._embed(images).float(), dim=-1)
        found: np.ndarray = vectors.cpu().numpy()
        return {self.name: found}
