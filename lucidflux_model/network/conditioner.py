"""The trained part of LucidFlux: two condition branches, and the modulation that turns their outputs into control.

    pixels (LQ | proxy) --hint stack, pack--> hint --+
    noisy latent -------------------------embed------+--> 2 double-stream blocks --> 2 features, one after each block
    prompt, pooled, guidance, t -----------------------------^

    control of backbone layer l = Mod_lq(LQ feature[l mod 2], t, l) + Mod_proxy(proxy feature[l mod 2], t, l)

`prepare` computes once per image what does not change over the steps; `forward` gives, for one step, the features
and the modulation of all layers; `Control` combines them lazily, layer by layer, for the backbone, which adds them to
its image tokens after each double-stream block (diffusers' `controlnet_block_samples`).

Timesteps are in [0, 1], 1 = noise, and are multiplied by 1000 in the dtype they come in: bfloat16 rounds them as the
published code does, float32 is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import (
    CombinedTimestepGuidanceTextProjEmbeddings,
    TimestepEmbedding,
    Timesteps,
)
from diffusers.models.transformers.transformer_flux import FluxPosEmbed, FluxTransformerBlock
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]
HINT_CHANNELS = 16
HINT_STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # 8 convolutions; the strides bring pixels to the latent grid, 1/8
TIME_SCALE = 1000
SINUSOID = 256


def pack(latent: Tensor) -> Tensor:
    """B x C x H x W -> B x (H/2 W/2) x 4C: tokens row by row, channels in the order (c, row, column)."""
    return F.pixel_unshuffle(latent, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack`; `rows` and `columns` count tokens."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def position_ids(rows: int, columns: int, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """(rows x columns) x 3 ids (0, row, column) of image tokens. bfloat16 merges neighbours above 256."""
    ids = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    ids[..., 1] = torch.arange(rows, device=device, dtype=dtype)[:, None]
    ids[..., 2] = torch.arange(columns, device=device, dtype=dtype)
    return ids.flatten(0, 1)


class BranchConstants(NamedTuple):
    """What a branch needs whatever the step. `hint`: B x N x d, `context`: B x T x d, `vector`: B x d."""

    hint: Tensor
    context: Tensor
    vector: Tensor


class Prepared(NamedTuple):
    """What the conditioner needs that does not depend on the step. `layers_*`: layer embeddings, L x d."""

    lq: BranchConstants
    proxy: BranchConstants
    rotary: Rotary
    layers_lq: Tensor
    layers_proxy: Tensor


class Conditions(NamedTuple):
    """One step. Features of each block after LayerNorm, B x N x d; shift and scale of all layers, B x L x d."""

    lq: tuple[Tensor, ...]
    proxy: tuple[Tensor, ...]
    shift_lq: Tensor
    scale_lq: Tensor
    shift_proxy: Tensor
    scale_proxy: Tensor


class Control(Sequence[Tensor]):
    """The control tensors of one step, B x N x d each, made when asked for: two at a time instead of all at once."""

    def __init__(self, conditions: Conditions, proxy_strength: float = 1.0) -> None:
        self.conditions = conditions
        self.proxy_strength = proxy_strength

    def __len__(self) -> int:
        return int(self.conditions.shift_lq.shape[1])

    def __getitem__(self, layer: Any) -> Any:
        if not 0 <= layer < len(self):
            raise IndexError(layer)
        c = self.conditions
        lq = modulate(c.lq[layer % len(c.lq)], c.shift_lq[:, layer], c.scale_lq[:, layer])
        if self.proxy_strength == 0:
            return lq
        proxy = modulate(c.proxy[layer % len(c.proxy)], c.shift_proxy[:, layer], c.scale_proxy[:, layer])
        return lq + (proxy if self.proxy_strength == 1 else self.proxy_strength * proxy)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[layer] for layer in range(len(self)))


def modulate(normalised: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """normalised x (1 + scale) + shift, per channel. B x N x d, B x d, B x d."""
    return normalised * (1 + scale[:, None]) + shift[:, None]


class HintStack(nn.Sequential):
    """B x 3 x H x W in [-1, 1] -> B x 16 x H/8 x W/8: 3x3 convolutions, SiLU after each but the last."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for index, stride in enumerate(HINT_STRIDES):
            layers.append(nn.Conv2d(HINT_CHANNELS if index else 3, HINT_CHANNELS, 3, stride, 1))
            layers.append(nn.SiLU())
        super().__init__(*layers[:-1])


class ConditionBranch(nn.Module):
    """Pixels and the noisy latent through double-stream blocks of its own. One of two; nothing is shared."""

    def __init__(
        self,
        in_channels: int,
        num_attention_heads: int,
        attention_head_dim: int,
        joint_attention_dim: int,
        pooled_projection_dim: int,
        depth: int,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.hint = HintStack()
        self.hint_embedder = nn.Linear(4 * HINT_CHANNELS, dim)
        self.x_embedder = nn.Linear(in_channels, dim)
        self.context_embedder = nn.Linear(joint_attention_dim, dim)
        self.time_text_embed = CombinedTimestepGuidanceTextProjEmbeddings(dim, pooled_projection_dim)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(dim, num_attention_heads, attention_head_dim) for _ in range(depth)
        )
        self.outputs = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.gradient_checkpointing = False

    def prepare(self, pixels: Tensor, text: Tensor, pooled: Tensor, guidance: Tensor) -> BranchConstants:
        """`pixels`: B x 3 x H x W in [-1, 1]; `text`: B x T x width, the prompt alone; `guidance`: B, as given."""
        dtype = self.x_embedder.weight.dtype
        embed = self.time_text_embed
        sinusoid = embed.time_proj(guidance * TIME_SCALE).to(dtype)
        vector = embed.guidance_embedder(sinusoid) + embed.text_embedder(pooled.to(dtype))
        hint = self.hint_embedder(pack(self.hint(pixels.to(dtype))))
        return BranchConstants(hint, self.context_embedder(text.to(dtype)), vector)

    def forward(
        self, latent: Tensor, timestep: Tensor, constants: BranchConstants, rotary: Rotary
    ) -> tuple[Tensor, ...]:
        """`latent`: B x N x 64 packed and noisy; `timestep`: B. Gives depth tensors, B x N x d."""
        dtype = self.x_embedder.weight.dtype
        embed = self.time_text_embed
        sinusoid = embed.time_proj(timestep * TIME_SCALE).to(dtype)
        vector = embed.timestep_embedder(sinusoid) + constants.vector
        tokens = self.x_embedder(latent.to(dtype)) + constants.hint
        context = constants.context
        features = []
        for block, output in zip(self.transformer_blocks, self.outputs, strict=True):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                context, tokens = self._gradient_checkpointing_func(block, tokens, context, vector, rotary)
            else:
                context, tokens = block(tokens, context, vector, rotary)
            features.append(output(tokens))
        return tuple(features)


class Modulation(nn.Module):
    """Shift and scale of every backbone layer at a timestep, from one embedding of the time and one of the layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sinusoid = Timesteps(SINUSOID, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedder = TimestepEmbedding(SINUSOID, dim)
        self.layer_embedder = TimestepEmbedding(SINUSOID, dim)
        self.linear = nn.Linear(dim, 2 * dim)

    def layers(self, count: int) -> Tensor:
        """Embeddings of the layer numbers 0..count-1 (the plain integers), count x d."""
        weight = self.linear.weight
        return self.layer_embedder(self.sinusoid(torch.arange(count, device=weight.device)).to(weight.dtype))

    def forward(self, timestep: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale), B x L x d each. The linear layer gives the shift first."""
        time = self.timestep_embedder(self.sinusoid(timestep * TIME_SCALE).to(self.linear.weight.dtype))
        shift, scale = self.linear(F.silu(time[:, None] + layers[None])).chunk(2, dim=-1)
        return shift, scale


class LucidFluxConditioner(ModelMixin, ConfigMixin):
    """Both branches and both modulations: 1,566,294,624 parameters at the size of FLUX.1-dev."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ("FluxTransformerBlock",)
    _repeated_blocks = ("FluxTransformerBlock",)

    @register_to_config
    def __init__(
        self,
        in_channels: int = 64,
        num_attention_heads: int = 24,
        attention_head_dim: int = 128,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        num_layers: int = 19,
        branch_depth: int = 2,
    ) -> None:
        super().__init__()
        sizes = (in_channels, num_attention_heads, attention_head_dim, joint_attention_dim, pooled_projection_dim)
        dim = num_attention_heads * attention_head_dim
        self.num_layers = num_layers
        self.pos_embed = FluxPosEmbed(10000, list(axes_dims_rope))
        self.branch_lq = ConditionBranch(*sizes, branch_depth)
        self.branch_proxy = ConditionBranch(*sizes, branch_depth)
        self.modulation_lq = Modulation(dim)
        self.modulation_proxy = Modulation(dim)
        self.silence()

    @torch.no_grad()
    def silence(self) -> None:
        """Starts at no influence: shift 0 and scale -1 make every control tensor exactly zero, whatever the features.

        Zeroing the branches' last layers instead would put zeros through a LayerNorm, whose backward gain is then
        1/sqrt(eps) = 1000.
        """
        for modulation in (self.modulation_lq, self.modulation_proxy):
            shift, scale = modulation.linear.bias.chunk(2)
            modulation.linear.weight.zero_()
            shift.zero_()
            scale.fill_(-1)

    @torch.no_grad()
    def copy_backbone(self, transformer: nn.Module) -> None:
        """Starts both branches from the backbone: its embedders and its first double-stream blocks."""
        for branch in (self.branch_lq, self.branch_proxy):
            for name in ("x_embedder", "context_embedder", "time_text_embed"):
                getattr(branch, name).load_state_dict(getattr(transformer, name).state_dict())
            for ours, theirs in zip(branch.transformer_blocks, transformer.transformer_blocks, strict=False):
                ours.load_state_dict(theirs.state_dict())

    def rotary(self, text_tokens: int, image_ids: Tensor) -> Rotary:
        """Rotary tables of text tokens, all at position zero, and image tokens, in float32."""
        zeros = image_ids.new_zeros(text_tokens, 3)
        cosines, sines = self.pos_embed(torch.cat([zeros, image_ids]))
        return cosines, sines

    def prepare(
        self,
        lq: Tensor,
        proxy: Tensor,
        text: Tensor,
        pooled: Tensor,
        guidance: Tensor,
        image_ids: Tensor | None = None,
    ) -> Prepared:
        """`lq`, `proxy`: B x 3 x H x W in [-1, 1], sides multiples of 16. `text`: the prompt's tokens, not SigLIP's."""
        if image_ids is None:
            image_ids = position_ids(lq.shape[2] // 16, lq.shape[3] // 16, lq.device)
        return Prepared(
            self.branch_lq.prepare(lq, text, pooled, guidance),
            self.branch_proxy.prepare(proxy, text, pooled, guidance),
            self.rotary(text.shape[1], image_ids),
            self.modulation_lq.layers(self.num_layers),
            self.modulation_proxy.layers(self.num_layers),
        )

    def forward(
        self, latent: Tensor, timestep: Tensor, prepared: Prepared | None = None, **inputs: Tensor
    ) -> Conditions:
        """One step. `latent`: B x N x 64 packed and noisy; `timestep`: B in [0, 1].

        Without `prepared`, `inputs` are the arguments of `prepare` (one call, as a trainer needs it).
        """
        if prepared is None:
            prepared = self.prepare(**inputs)
        lq = self.branch_lq(latent, timestep, prepared.lq, prepared.rotary)
        proxy = self.branch_proxy(latent, timestep, prepared.proxy, prepared.rotary)
        return Conditions(
            tuple(_normalised(feature) for feature in lq),
            tuple(_normalised(feature) for feature in proxy),
            *self.modulation_lq(timestep, prepared.layers_lq),
            *self.modulation_proxy(timestep, prepared.layers_proxy),
        )


def _normalised(feature: Tensor) -> Tensor:
    return F.layer_norm(feature, feature.shape[-1:], eps=1e-6)
