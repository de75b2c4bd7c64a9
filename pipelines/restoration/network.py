"""Published restoration networks from a file of weights: what spandrel knows by the names of the tensors.

FILE.pth -> tensors, read without running code -> architecture and sizes (spandrel) -> float32 on a device
pixels -> tiles (tiles.py) -> the network, tile by tile -> their weighted mean -> scale times the input
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidflux_data.errors import InputError, needs_extra
from lucidflux_model.network.device import pick_device
from lucidflux_model.weights.published import split_prefix, strip_wrappers
from lucidflux_model.weights.tensors import is_finite, read_content
from pipelines.restoration.config import DEFAULT_TILE, NetworkConfig, NetworkModel
from pipelines.restoration.tiles import restore_tiled

FORETOLD = 128  # pixels of the input: the side of the piece that tells how long an image takes


def load_network(model: NetworkModel) -> Any:
    """spandrel's ImageModelDescriptor of the file, in float32 on the CPU.

    ConfigError where spandrel is not installed; InputError for a file that is no such network, or would have to run
    code to load.
    """
    with needs_extra("networks"):
        import spandrel
    registry = spandrel.MAIN_REGISTRY
    if model.extra_archs:
        with needs_extra("extra-archs"):
            import spandrel_extra_arches
        registry = registry.copy()  # theirs are asked for in this file alone
        registry.add(*spandrel_extra_arches.EXTRA_REGISTRY)
    state = strip_wrappers(spandrel.canonicalize_state_dict(read_content(Path(model.file))))
    hint = "" if model.extra_archs else "; --extra-archs knows more"
    try:
        network, state = _load_inner(registry, state)
    except spandrel.UnsupportedModelError:
        raise InputError(f"{model.file} is of no architecture that spandrel knows{hint}") from None
    except Exception as error:  # of any architecture's reader of sizes, on tensors that only look like its own
        reason = f"there is no {error}" if isinstance(error, KeyError) else _first_words(error)
        raise InputError(f"{model.file} does not load into the architecture that it looks like: {reason}") from None
    name = network.architecture.name
    whole = next((key for key, tensor in state.items() if _is_integer(tensor) and _is_learned(key, network)), None)
    if whole is not None:
        raise InputError(f"{model.file} ({name}) holds integers for {whole}: quantised weights are not read")
    if not isinstance(network, spandrel.ImageModelDescriptor):
        raise InputError(f"{model.file} ({name}) fills in what a mask covers: it restores no plain image")
    broken = next((key for key, tensor in network.model.state_dict().items() if not is_finite(tensor)), None)
    if broken is not None:
        raise InputError(f"{model.file} ({name}) holds NaN or infinity in {broken}")
    if network.input_channels not in (1, 3) or network.output_channels != network.input_channels:
        channels = f"{network.input_channels} channels and gives {network.output_channels}"
        raise InputError(f"{model.file} ({name}) takes {channels}: 3 or 1 are wanted")
    return network.float().eval()


def _load_inner(registry: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The network, and the tensors that it took: those of `state`, or of the one module that holds them all, as the
    `model.` and `net_g.` of training frameworks do. Raises spandrel's UnsupportedModelError where neither is known."""
    from spandrel import UnsupportedModelError

    while True:
        try:
            return registry.load(state), state
        except UnsupportedModelError:
            outer = {key.partition(".")[0] for key in state}
            if len(outer) != 1 or not all("." in key for key in state):
                raise
            state = split_prefix(state, outer.pop())


def _first_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _is_integer(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and not tensor.is_floating_point()


def _is_learned(key: str, network: Any) -> bool:
    return key in dict(network.model.named_parameters())


class NetworkRestorer:
    """The network of `config`, tiled. One of a single channel is given red, green and blue one by one."""

    smaller = "raise it"
    cheaper = "a smaller --tile"

    def __init__(self, config: NetworkConfig) -> None:
        self.device: torch.device = pick_device(config.model.device)
        self.network = load_network(config.model).to(self.device)
        self.tile, self.overlap = pick_tile(config, self.network), config.overlap

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return height * self.network.scale, width * self.network.scale

    def restore(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack(
            [restore_tiled(image, self.tile, self.overlap, self.network.scale, self._run) for image in images]
        )

    def foretell(self, image: np.ndarray) -> float | None:
        """By the area: a network of convolutions, or of windows, does the same at every place."""
        piece = image[:FORETOLD, :FORETOLD]
        if piece.shape == image.shape:
            return None
        start = time.perf_counter()
        self.restore([piece])
        return (time.perf_counter() - start) * image.size / piece.size

    def _run(self, tile: Tensor) -> Tensor:
        """uint8 3 x height x width -> float32 in [0, 1], scale times the size, on the CPU."""
        given = tile[None].to(self.device).float() / 255
        parts = given.split(self.network.input_channels, dim=1)
        result: Tensor = torch.cat([self.network(part) for part in parts], dim=1)[0].cpu()
        expected = (3, *self.output_size(*tile.shape[1:]))
        if result.shape != expected:
            raise InputError(
                f"{self.network.architecture.name} made {tuple(result.shape)} of {tuple(tile.shape)}, not {expected}"
            )
        return result


def pick_tile(config: NetworkConfig, network: Any) -> int:
    """The side of a tile in pixels of the input, 0 for none: as asked, else by what spandrel says of the network. One
    that had better see much at once (SwinIR, SCUNet) gets larger tiles, one that tiles by itself gets none."""
    if config.tile is not None:
        return config.tile
    return {"SUPPORTED": DEFAULT_TILE, "DISCOURAGED": 2 * DEFAULT_TILE, "INTERNAL": 0}[network.tiling.name]
