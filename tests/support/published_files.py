"""The published files of LucidFlux at the sizes of `tiny`, as `weights download` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel

from lucidflux_model.network.build import MODELS
from lucidflux_model.weights.layouts import to_published
from lucidflux_model.weights.published import layouts_of, save_lucidflux


def write_published(tiny: Mapping[str, Any], folder: Path) -> None:
    """`tiny`: as of build_random."""
    save_lucidflux(tiny["conditioner"], tiny["connector"], folder / "lucidflux.pth")
    for part, name in (("transformer", "flux1-dev.safetensors"), ("vae", "ae.safetensors")):
        ((_, (component, entries)),) = layouts_of(part, tiny[part]).items()
        state = to_published(entries, component.state_dict())
        save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, folder / name)
    ((_, (proxy, entries)),) = layouts_of("proxy", tiny["proxy"]).items()
    torch.save({"state_dict": to_published(entries, proxy.state_dict())}, folder / "general_swinir_v1.ckpt")
    prompt = {"txt": tiny["prompt"].text.data, "vec": tiny["prompt"].pooled.data, "prompt": "restore this"}
    torch.save(prompt, folder / "prompt_embeddings.pt")
    text = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    text |= {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    both = SiglipModel(SiglipConfig(vision_config=MODELS["tiny"].image_encoder, text_config=text))
    both.vision_model.load_state_dict(tiny["image_encoder"].state_dict())
    both.save_pretrained(folder / "siglip2")
