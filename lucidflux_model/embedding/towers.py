"""Image towers of CLIP and SigLIP from a folder in the layout of the Hugging Face hub: safetensors, and no code of it.

The vector is what transformers' `get_image_features` gives: CLIP's projection, SigLIP's attention pooling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from lucidflux_data.errors import InputError
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.embedding.batches import Embed, in_batches
from lucidflux_model.embedding.known import READY
from lucidflux_model.weights.tensors import is_finite

FAMILIES = {"clip": "clip", "clip_vision_model": "clip", "siglip": "siglip2", "siglip_vision_model": "siglip2"}
LONGEST = 16  # sides to one: of a longer image the middle is taken, of which CLIP takes the middle anyway
GREY = np.full((64, 64, 3), 128, np.uint8)


def load_tower(name: str, folder: Path, device: str) -> Embed:
    """`name`: clip or siglip2. InputError where the folder holds no such model, or not all of it."""
    kind = _read_json(folder / "config.json").get("model_type")
    if kind == "siglip2":
        raise InputError(
            f"{folder} holds a SigLIP 2 of any size (NaFlex), which is not taken: take one of a fixed size, as "
            f"{READY[name].source}"
        )
    if FAMILIES.get(str(kind)) != name:
        raise InputError(f"{folder} holds a model of type {kind}, not {name}: take {READY[name].source}")
    try:
        network, processor = _load(name, folder)
        embed = in_batches(lambda image: _prepare(processor, image), network.to(device), device)
        with torch.inference_mode():
            embed([GREY])  # settings that do not fit each other are told now
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder} cannot be read as a model of {name}: {first}") from None
    return embed


def _load(name: str, folder: Path) -> tuple[Any, Any]:
    """(images -> vectors, transformers' processor of images)."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # of the other tower's weights, which are not read
    transformers.utils.logging.disable_progress_bar()
    if name == "clip":
        tower, settings = transformers.CLIPVisionModelWithProjection, transformers.CLIPImageProcessor
    else:
        tower, settings = transformers.SiglipVisionModel, transformers.SiglipImageProcessor
    model, told = tower.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if told["missing_keys"]:
        raise InputError(f"{folder} lacks weights of {name}: {', '.join(sorted(told['missing_keys'])[:5])}")
    if not all(map(is_finite, model.state_dict().values())):
        raise InputError(f"{folder} has weights that are no finite numbers: fetch them again")
    return Tower(model.requires_grad_(False).eval()), settings.from_dict(
        _read_json(folder / "preprocessor_config.json")
    )


class Tower(torch.nn.Module):
    """B x 3 x H x W -> B x d."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.model(pixel_values=pixels)
        vectors: Tensor = found.image_embeds if "image_embeds" in found else found.pooler_output
        return vectors


def _prepare(processor: Any, image: np.ndarray) -> Tensor:
    height, width = image.shape[:2]
    if max(height, width) > LONGEST * min(height, width):  # enlarged to a short side of 224 px it could fill the memory
        side = LONGEST * min(height, width)
        top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
        image = image[top : top + side, left : left + side]
    pixels: Tensor = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    return pixels


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: it is no JSON object")
    return found
