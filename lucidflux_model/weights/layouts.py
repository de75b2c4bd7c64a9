"""The published file layouts, key by key, against ours, and the way there and back.

    published tensor <-> one of ours, or several joined by rows (fused q, k, v), or two halves swapped (final
                         modulation), or a 1x1 convolution (the autoencoder's attention)

Ours are diffusers' names for everything that diffusers has. A layout is derived from the module it describes, so that
any width and depth has one. Nothing is skipped: a key too many, too few or of another shape is an InputError that
names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lucidflux_data.errors import InputError
from lucidflux_model.network.proxy import attention_mask, position_index

State = Mapping[str, Tensor]
NAMED = 5  # keys that an error names


@dataclass(frozen=True)
class Entry:
    """`theirs` holds the tensors `ours`, one below the other. `derived` is a table that follows from the sizes."""

    theirs: str
    ours: tuple[str, ...] = ()
    swapped: bool = False  # halves in the other order
    convolution: bool = False  # a linear layer stored as a 1x1 convolution
    derived: Callable[[], Tensor] | None = None


def from_published(entries: list[Entry], published: State, module: nn.Module, name: str) -> dict[str, Tensor]:
    """Our state dict of `module`, views of the published tensors where possible. `name` is said in errors."""
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    check(name, {key: tuple(tensor.shape) for key, tensor in published.items()}, published_shapes(entries, shapes))
    state: dict[str, Tensor] = {}
    for entry in entries:
        tensor = published[entry.theirs]
        if entry.derived is not None:
            if not tensor.is_meta and not torch.equal(tensor.float(), entry.derived().float()):
                raise InputError(f"{name}: {entry.theirs} is not the table that these sizes have")
            continue
        if entry.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if entry.convolution:
            tensor = tensor.flatten(1)
        parts = tensor.split([shapes[key][0] for key in entry.ours])
        state.update(zip(entry.ours, parts, strict=True))
    return state


def to_published(entries: list[Entry], state: State) -> dict[str, Tensor]:
    """The published tensors, in the order of the layout."""
    published = {}
    for entry in entries:
        if entry.derived is not None:
            published[entry.theirs] = entry.derived()
            continue
        tensor = torch.cat([state[key] for key in entry.ours]) if len(entry.ours) > 1 else state[entry.ours[0]]
        if entry.swapped:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        published[entry.theirs] = tensor[..., None, None] if entry.convolution else tensor
    return published


def published_shapes(entries: list[Entry], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    result = {}
    for entry in entries:
        if entry.derived is not None:
            result[entry.theirs] = tuple(entry.derived().shape)
            continue
        first = shapes[entry.ours[0]]
        shape = (sum(shapes[key][0] for key in entry.ours), *first[1:])
        result[entry.theirs] = (*shape, 1, 1) if entry.convolution else shape
    return result


def check(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises InputError naming missing keys, unknown keys and wrong shapes."""
    troubles = []
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in wanted]
    wrong = [
        f"{key} {found[key]} instead of {wanted[key]}" for key in wanted if found.get(key, wanted[key]) != wanted[key]
    ]
    for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", wrong)):
        if keys:
            rest = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
            troubles.append(f"{len(keys)} {what} ({', '.join(keys[:NAMED])}{rest})")
    if troubles:
        raise InputError(f"{name} does not hold this model's weights: {'; '.join(troubles)}")


def _both(theirs: str, *ours: str, swapped: bool = False, convolution: bool = False) -> Iterator[Entry]:
    """Weight and bias."""
    yield Entry(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), swapped, convolution)
    yield Entry(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours), swapped)


# Black Forest Labs' names and diffusers', of the parts that backbone and branches share.
_EMBEDDERS = {
    "img_in": "x_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "txt_in": "context_embedder",
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_SCALES = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_SINGLE_SCALES = {"norm.query_norm.scale": "attn.norm_q.weight", "norm.key_norm.scale": "attn.norm_k.weight"}


def _blocks(
    count: int, theirs: str, ours: str, linear: Mapping[str, tuple[str, ...]], scales: Mapping[str, str]
) -> Iterator[Entry]:
    for index in range(count):
        for name, names in linear.items():
            yield from _both(f"{theirs}.{index}.{name}", *(f"{ours}.{index}.{part}" for part in names))
        for name, scale in scales.items():
            yield Entry(f"{theirs}.{index}.{name}", (f"{ours}.{index}.{scale}",))


def flux_layout(transformer: Any) -> list[Entry]:
    """`flux1-dev.safetensors` and diffusers' FluxTransformer2DModel."""
    entries = [entry for theirs, ours in _EMBEDDERS.items() for entry in _both(theirs, ours)]
    double, single = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
    entries += _blocks(double, "double_blocks", "transformer_blocks", _DOUBLE, _DOUBLE_SCALES)
    entries += _blocks(single, "single_blocks", "single_transformer_blocks", _SINGLE, _SINGLE_SCALES)
    entries += _both("final_layer.linear", "proj_out")
    entries += _both("final_layer.adaLN_modulation.1", "norm_out.linear", swapped=True)
    return entries


def branch_layout(branch: Any) -> list[Entry]:
    """`condition_lq` and `condition_ldr` of lucidflux.pth."""
    entries = [entry for theirs, ours in _EMBEDDERS.items() for entry in _both(theirs, ours)]
    depth = len(branch.transformer_blocks)
    entries += _blocks(depth, "double_blocks", "transformer_blocks", _DOUBLE, _DOUBLE_SCALES)
    for index in range(depth):
        entries += _both(f"controlnet_blocks.{index}", f"outputs.{index}")
    entries += _both("pos_embed_input", "hint_embedder")
    for index in range(0, len(branch.hint), 2):
        entries += _both(f"input_hint_block.{index}", f"hint.{index}")
    return entries


def modulation_layout() -> list[Entry]:
    """`modulation_lq` and `modulation_ldr` of lucidflux.pth."""
    entries = list(_both("linear", "linear"))
    for layer in ("linear_1", "linear_2"):
        entries += _both(f"timestep_embedder.{layer}", f"timestep_embedder.{layer}")
        entries += _both(f"control_index_embedder.{layer}", f"layer_embedder.{layer}")
    return entries


def connector_layout() -> list[Entry]:
    """`connector` of lucidflux.pth, and the Redux files that it started from: diffusers has the same names."""
    return [*_both("redux_up", "redux_up"), *_both("redux_down", "redux_down")]


def swinir_layout(proxy: Any) -> list[Entry]:
    """DiffBIR's general_swinir_v1.ckpt: our names, and tables that follow from the sizes (for 64 x 64 tokens)."""
    entries = [Entry(key, (key,)) for key in proxy.state_dict()]
    window = proxy.window_size
    for number, layer in enumerate(proxy.layers):
        for index, block in enumerate(layer.residual_group["blocks"]):
            prefix = f"layers.{number}.residual_group.blocks.{index}"
            entries.append(Entry(f"{prefix}.attn.relative_position_index", derived=lambda: position_index(window)))
            if block.shift:
                entries.append(Entry(f"{prefix}.attn_mask", derived=lambda: attention_mask(64, 64, window)))
    return entries


_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def vae_layout(vae: Any) -> list[Entry]:
    """`ae.safetensors` of FLUX.1-dev and diffusers' AutoencoderKL."""
    names = vae.state_dict().keys()
    entries: list[Entry] = []

    def resnet(theirs: str, ours: str) -> None:
        for name, mine in _RESNET.items():
            if f"{ours}.{mine}.weight" in names:
                entries.extend(_both(f"{theirs}.{name}", f"{ours}.{mine}"))

    for half, module, ours, theirs, step in (
        ("encoder", vae.encoder.down_blocks, "down_blocks", "down", "downsample"),
        ("decoder", vae.decoder.up_blocks, "up_blocks", "up", "upsample"),
    ):
        for name, mine in (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")):
            entries.extend(_both(f"{half}.{name}", f"{half}.{mine}"))
        for index, block in enumerate(module):
            number = index if half == "encoder" else len(module) - 1 - index  # the decoder counts from its end
            for part in range(len(block.resnets)):
                resnet(f"{half}.{theirs}.{number}.block.{part}", f"{half}.{ours}.{index}.resnets.{part}")
            if f"{half}.{ours}.{index}.{step}rs.0.conv.weight" in names:
                entries.extend(_both(f"{half}.{theirs}.{number}.{step}.conv", f"{half}.{ours}.{index}.{step}rs.0.conv"))
        for part in range(2):
            resnet(f"{half}.mid.block_{part + 1}", f"{half}.mid_block.resnets.{part}")
        attention = f"{half}.mid_block.attentions.0"
        entries.extend(_both(f"{half}.mid.attn_1.norm", f"{attention}.group_norm"))
        for name, mine in _ATTENTION.items():
            entries.extend(_both(f"{half}.mid.attn_1.{name}", f"{attention}.{mine}", convolution=True))
    return entries
