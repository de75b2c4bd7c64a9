"""The model as it is trained: frozen parts that encode a batch, and the velocity that is learned.

    encode (no gradient):  HQ -> VAE -> x0       LQ -> SwinIR -> proxy -> SigLIP2 -> features
    forward:               features -> connector -> context;  LQ, proxy, x_s -> conditioner -> control;  backbone -> v

Trained parameters are float32. On a GPU their layers compute in bfloat16 (autocast), and the frozen backbone is
bfloat16 throughout, outside of autocast: its norms would otherwise keep float32 activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from lucidflux_model.network.build import TRAINED, Components, build, sizes_of
from lucidflux_model.network.conditioner import Conditions, Control, pack, position_ids
from lucidflux_model.network.encode import Tensors, encode
from lucidflux_model.training.objective import Draws

# Dense bfloat16 tensor throughput, FLOP/s, of the makers' data sheets (without sparsity); the first name that is part
# of the device's name counts.
PEAK = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


FROZEN = ("transformer", "vae", "proxy", "image_encoder", "prompt")
# Of a branch's last block nothing reads the text stream: these layers get no gradient, whatever the loss.
UNREACHED = ("attn.to_add_out", "ff_context")


class VelocityModel(nn.Module):
    """`forward` takes what `encode` gave and draws; its parameters with requires_grad are what is trained."""

    transformer: Any
    vae: Any
    proxy: Any
    image_encoder: Any
    prompt: Any
    conditioner: Any
    connector: Any

    def __init__(self, components: Components, autocast: bool) -> None:
        super().__init__()
        for name in (*FROZEN, *TRAINED):
            setattr(self, name, components[name])
        self.autocast = autocast
        freeze(self)

    @property
    def device(self) -> torch.device:
        return self.prompt.text.device

    def computing(self) -> Any:
        """bfloat16 for the layers of float32 parameters, where the run is in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def encode(self, batch: Tensors) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = encode(self, batch)
        return inputs

    def forward(self, noisy: Tensor, lq: Tensor, proxy: Tensor, features: Tensor, draws: Draws) -> Tensor:
        """Velocity tokens, B x N x 64. `noisy`: x_s, B x C x H x W."""
        rows, columns = noisy.shape[2] // 2, noisy.shape[3] // 2
        tokens = pack(noisy)
        text, pooled = self.prompt(len(noisy))
        with self.computing():
            semantic = self.connector(features.to(_dtype(self.connector))).image_embeds
            # Two calls: FSDP lets go of the weights after each, and one inside the other would do so too early.
            prepared = self.conditioner.prepare(lq, proxy, text, pooled, draws.guidance)
            conditions = self.conditioner(tokens, draws.time, prepared)
        if draws.keep_semantic is not None:
            semantic = semantic * draws.keep_semantic[:, None, None]
        dtype = self.transformer.dtype
        context = torch.cat([text.to(dtype), semantic.to(dtype)], 1)
        control = CastControl(drop_conditions(conditions, draws), dtype)
        # diffusers rounds t to the dtype of the latents before it multiplies by 1000; this keeps it exact.
        exact = (draws.time * 1000, draws.guidance * 1000)
        hook = self.transformer.time_text_embed.register_forward_pre_hook(lambda _, given: (*exact, given[2]))
        try:
            return self.transformer(
                hidden_states=tokens.to(dtype),
                encoder_hidden_states=context,
                pooled_projections=pooled.to(dtype),
                timestep=draws.time,
                img_ids=position_ids(rows, columns, tokens.device),
                txt_ids=torch.zeros(context.shape[1], 3, device=tokens.device),
                guidance=draws.guidance,
                controlnet_block_samples=control,
                return_dict=False,
            )[0]
        finally:
            hook.remove()


class CastControl(Sequence[Tensor]):
    """Control in the dtype of the backbone, whose residual stream would otherwise become float32."""

    def __init__(self, conditions: Conditions, dtype: torch.dtype) -> None:
        self._control, self._dtype = Control(conditions), dtype

    def __len__(self) -> int:
        return len(self._control)

    def __getitem__(self, layer: Any) -> Any:
        return self._control[layer].to(self._dtype)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[layer] for layer in range(len(self)))


def drop_conditions(conditions: Conditions, draws: Draws) -> Conditions:
    """Conditions with the branches silent that are dropped for a sample: no feature and no shift give no control."""
    if draws.keep_lq is None or draws.keep_proxy is None:
        return conditions
    lq, proxy = draws.keep_lq[:, None, None], draws.keep_proxy[:, None, None]
    return conditions._replace(
        lq=tuple(feature * lq for feature in conditions.lq),
        proxy=tuple(feature * proxy for feature in conditions.proxy),
        shift_lq=conditions.shift_lq * lq,
        shift_proxy=conditions.shift_proxy * proxy,
    )


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def freeze(model: VelocityModel) -> None:
    """Only conditioner and connector learn, without the layers that nothing reads."""
    model.requires_grad_(False)
    for name in TRAINED:
        getattr(model, name).requires_grad_(True)
    for branch in (model.conditioner.branch_lq, model.conditioner.branch_proxy):
        for name in UNREACHED:
            branch.transformer_blocks[-1].get_submodule(name).requires_grad_(False)


@torch.no_grad()
def initialise(model: VelocityModel, how: str) -> None:
    """First weights of the branches: embedders and first blocks of the backbone; then

    safe        zero modulation heads with scale -1: the control is exactly zero, so step 0 is plain Flux
    published   zero last layers of hint and branches (as the public code of its kind), modulation as torch draws it;
                the zeros pass a LayerNorm of eps 1e-6, so the first gradients are up to 1000 times larger
    """
    model.conditioner.copy_backbone(model.transformer)
    if how == "safe":
        model.conditioner.silence()
        return
    for branch in (model.conditioner.branch_lq, model.conditioner.branch_proxy):
        for layer in (branch.hint[-1], *branch.outputs):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    for modulation in (model.conditioner.modulation_lq, model.conditioner.modulation_proxy):
        modulation.linear.reset_parameters()


def use_checkpointing(model: VelocityModel, how: str) -> None:
    """Block by block, what the backward pass needs is kept (`off`), recomputed (`full`), or recomputed but for the
    results of attention (`selective`)."""
    if how == "off":
        return
    context = partial(create_selective_checkpoint_contexts, _keep_attention) if how == "selective" else None
    for part in (model.transformer, model.conditioner):
        part.enable_gradient_checkpointing(_checkpointed(context))


def _checkpointed(context: Callable[[], Any] | None) -> Callable[..., Any]:
    options = {"context_fn": context} if context else {}

    def call(module: Any, *arguments: Any) -> Any:
        return checkpoint(module, *arguments, use_reentrant=False, preserve_rng_state=False, **options)

    return call


def _keep_attention(_: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    keep = "scaled_dot_product" in str(operation)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of a GPU in bfloat16; None for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK.items() if part in name), None)


def useful_flops(model: str, height: int, width: int) -> float:
    """Of one sample of `height` x `width` pixels, counted on tensors without storage: 2 for each multiply-add."""
    sizes = sizes_of(model)
    velocity = VelocityModel(build(sizes, "meta"), autocast=False)
    tokens = (sizes.image_encoder["image_size"] // sizes.image_encoder["patch_size"]) ** 2

    def empty(*shape: int) -> Any:
        return torch.empty(*shape, device="meta")

    draws = Draws(empty(1, 16, height // 8, width // 8), *(empty(1) for _ in range(3)))
    features = empty(1, tokens, sizes.connector["redux_dim"])
    pixels = empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter:
        output = velocity(draws.noise, pixels, pixels, features, draws)
        output.sum().backward()
    return float(counter.get_total_flops())
