"""The sizes of the model in one dictionary, and the modules built from them.

    MODELS["tiny"], MODELS["flux-dev"] -> build(sizes, device) -> {"transformer": ..., "conditioner": ..., ...}

The components, by the name they have in `LucidFluxPipeline`:

    transformer      FLUX.1-dev's backbone (diffusers), frozen
    vae              FLUX.1-dev's autoencoder (diffusers), frozen
    proxy            SwinIR, frozen
    image_encoder    SigLIP2's vision tower (transformers), frozen
    conditioner      the two branches and modulations, trained
    connector        SigLIP features to tokens, trained
    prompt           embeddings of the constant prompt

`tiny` has the real classes at small width: it checks plumbing on a CPU, and restores nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from lucidflux_data.errors import ConfigError
from lucidflux_model.network.conditioner import LucidFluxConditioner
from lucidflux_model.network.prompt import PromptEmbeddings
from lucidflux_model.network.proxy import SwinIRProxy

TRAINED = ("conditioner", "connector")


Components = dict[str, nn.Module]  # by the names above


class FluxSizes(TypedDict):
    """What backbone and branches share."""

    in_channels: int  # of a token: 16 latent channels x 2 x 2
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int  # width of the text
    pooled_projection_dim: int  # width of the pooled text
    axes_dims_rope: tuple[int, ...]  # head dimensions of index, row and column


class TransformerSizes(FluxSizes):
    num_layers: int  # of two streams
    num_single_layers: int
    guidance_embeds: bool


class ConditionerSizes(FluxSizes):
    num_layers: int  # that get a control
    branch_depth: int  # blocks of a branch


class ConnectorSizes(TypedDict):
    redux_dim: int  # width of the features
    txt_in_features: int  # width of the text


class ProxySizes(TypedDict):
    embed_dim: int
    depths: tuple[int, ...]  # blocks a group
    num_heads: tuple[int, ...]  # of each group
    window_size: NotRequired[int]
    mlp_ratio: NotRequired[float]


class VisionSizes(TypedDict):
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int  # pixels
    patch_size: int


class VaeSizes(TypedDict):
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    sample_size: int
    scaling_factor: float
    shift_factor: float
    use_quant_conv: bool
    use_post_quant_conv: bool


class PromptSizes(TypedDict):
    tokens: int
    width: int
    pooled_width: int


@dataclass(frozen=True)
class ModelSizes:
    """Constructor arguments of every component."""

    transformer: TransformerSizes
    conditioner: ConditionerSizes
    connector: ConnectorSizes
    proxy: ProxySizes
    image_encoder: VisionSizes
    vae: VaeSizes
    prompt: PromptSizes


_DOWN, _UP = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4


def _sizes(
    heads: int,
    head_dim: int,
    axes: tuple[int, int, int],
    blocks: tuple[int, int],
    text: tuple[int, int, int],  # tokens, width, pooled width
    image_encoder: VisionSizes,
    proxy: ProxySizes,
    vae_channels: tuple[int, ...],
    vae_layers: int,
    vae_groups: int,
) -> ModelSizes:
    tokens, width, pooled = text
    flux: FluxSizes = {
        "in_channels": 64,
        "attention_head_dim": head_dim,
        "num_attention_heads": heads,
        "joint_attention_dim": width,
        "pooled_projection_dim": pooled,
        "axes_dims_rope": axes,
    }
    layers, single_layers = blocks
    return ModelSizes(
        transformer={**flux, "num_layers": layers, "num_single_layers": single_layers, "guidance_embeds": True},
        conditioner={**flux, "num_layers": layers, "branch_depth": 2},
        connector={"redux_dim": image_encoder["hidden_size"], "txt_in_features": width},
        proxy=proxy,
        image_encoder=image_encoder,
        vae={
            "down_block_types": _DOWN,
            "up_block_types": _UP,
            "block_out_channels": vae_channels,
            "layers_per_block": vae_layers,
            "latent_channels": 16,
            "norm_num_groups": vae_groups,
            "sample_size": 1024,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        prompt={"tokens": tokens, "width": width, "pooled_width": pooled},
    )


MODELS: dict[str, ModelSizes] = {
    "tiny": _sizes(
        heads=2,
        head_dim=16,
        axes=(4, 6, 6),
        blocks=(19, 2),
        text=(8, 24, 16),
        image_encoder={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        proxy={"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)},
        vae_channels=(8, 8, 16, 16),
        vae_layers=1,
        vae_groups=4,
    ),
    "flux-dev": _sizes(
        heads=24,
        head_dim=128,
        axes=(16, 56, 56),
        blocks=(19, 38),
        text=(512, 4096, 768),
        image_encoder={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 512,
            "patch_size": 16,
        },
        proxy={"embed_dim": 180, "depths": (6,) * 8, "num_heads": (6,) * 8},
        vae_channels=(128, 256, 512, 512),
        vae_layers=2,
        vae_groups=32,
    ),
}
CLASSES: dict[str, type[nn.Module]] = {
    "transformer": FluxTransformer2DModel,
    "conditioner": LucidFluxConditioner,
    "connector": ReduxImageEncoder,
    "proxy": SwinIRProxy,
    "image_encoder": SiglipVisionModel,
    "vae": AutoencoderKL,
    "prompt": PromptEmbeddings,
}


def sizes_of(model: str) -> ModelSizes:
    """The sizes by name. ConfigError for a name that is not in MODELS."""
    if model not in MODELS:
        raise ConfigError(f"--model is {' or '.join(MODELS)}, not {model}")
    return MODELS[model]


def build(
    sizes: ModelSizes,
    device: str | torch.device = "meta",
    dtype: torch.dtype = torch.float32,
    parts: Iterable[str] = tuple(CLASSES),
) -> Components:
    """Fresh components. On the meta device they take no memory; `weights.load_*` then puts tensors in their places."""
    components = {}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for part in parts:
            settings: Any = getattr(sizes, part)
            with torch.device(device):
                if part == "image_encoder":
                    components[part] = SiglipVisionModel(SiglipVisionConfig(**settings)).eval()
                else:
                    components[part] = CLASSES[part](**settings).eval()
    finally:
        torch.set_default_dtype(default)
    return components


def build_random(
    model: str,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: Iterable[str] = tuple(CLASSES),
) -> Components:
    """Components with random weights, the same for a (seed, device kind, dtype). For plumbing and for timing."""
    components = build(sizes_of(model), device, dtype, parts)
    for part, component in components.items():
        fill_random(component, seed, part)
    return components


@torch.no_grad()
def fill_random(module: nn.Module, seed: int, name: str) -> None:
    """Matrices of variance 1/fan-in, scales near 1 and biases near 0, each parameter drawn by its own name."""
    for key, parameter in module.named_parameters():
        generator = torch.Generator(parameter.device).manual_seed(zlib.crc32(f"{seed}/{name}/{key}".encode()))
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(1 if key.endswith("weight") else 0, 0.02, generator=generator)
