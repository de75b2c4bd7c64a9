"""Golden tensors: what the published inference computes at reduced width, recomputed by the product's own classes.

DIR/config.json          the reduced sizes, in the published code's words
DIR/weights.safetensors  published names behind `flux.`, `swinir.`, `condition_lq.` ... (float16 values)
DIR/tensors.safetensors  inputs and results, float32
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from lucidflux_data.errors import InputError
from lucidflux_model.inference.color import align_colors, wavelet_split
from lucidflux_model.network.build import MODELS, Components, ConnectorSizes, FluxSizes, ModelSizes, ProxySizes, build
from lucidflux_model.network.conditioner import Control, pack, position_ids, unpack
from lucidflux_model.network.encode import siglip_input
from lucidflux_model.network.schedule import make_scheduler, schedule_length, set_sigmas
from lucidflux_model.weights.published import layouts_of, load_published, split_prefix
from lucidflux_model.weights.tensors import read_tensors

TOLERANCE = 1e-4
PARTS = ("transformer", "conditioner", "connector", "proxy")
INPUTS = frozenset({"noise", "guidance", "timestep", "lq_image", "siglip_features", "txt", "vec", "wavelet_content"})


class GoldenFlux(TypedDict):
    """Sizes of the backbone, in the published code's words."""

    in_channels: int
    num_heads: int
    hidden_size: int
    context_in_dim: int
    vec_in_dim: int
    axes_dim: list[int]
    depth: int
    depth_single_blocks: int
    guidance_embed: bool


class Golden(TypedDict):
    """config.json of a golden folder."""

    height: int  # pixels
    width: int
    flux: GoldenFlux
    swinir: ProxySizes
    connector: ConnectorSizes
    condition_depth: int  # blocks of a branch


def parity(folder: Path) -> dict[str, float]:
    """Largest error of each golden tensor, relative to its largest value. InputError where the folder is incomplete."""
    golden = read_tensors(folder / "tensors.safetensors")
    try:
        config, components = load_golden(folder)
        with torch.no_grad():
            results = recompute(config, components, golden)
    except KeyError as error:
        raise InputError(f"{folder} is not a complete golden folder: it has no {error.args[0]}") from None
    unknown = sorted(golden.keys() - results.keys() - INPUTS)
    if unknown:
        raise InputError(f"{folder}/tensors.safetensors holds tensors that are not known here: {', '.join(unknown)}")
    return {name: relative_error(results[name], golden[name]) for name in sorted(golden.keys() & results.keys())}


def relative_error(ours: Tensor, golden: Tensor) -> float:
    """max |ours - golden| / max |golden|; infinite where the shapes differ or a value is not finite."""
    if ours.shape != golden.shape or not bool(torch.isfinite(ours).all()):
        return float("inf")
    return float((ours.double() - golden.double()).abs().max() / golden.double().abs().max())


def load_golden(folder: Path) -> tuple[Golden, Components]:
    """(config, components with the golden weights in float32)."""
    try:
        config: Golden = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise InputError(f"{folder} is not a golden folder: config.json is missing or damaged") from None
    components = build(golden_sizes(config), parts=PARTS)
    weights = read_tensors(folder / "weights.safetensors")
    for part in PARTS:
        for name, (module, entries) in layouts_of(part, components[part]).items():
            load_published(module, entries, split_prefix(weights, name), f"{folder}/weights.safetensors: {name}")
    return config, components


def golden_sizes(config: Golden) -> ModelSizes:
    """Our sizes from the published code's; parts that a golden folder does not hold stay tiny."""
    flux, swinir = config["flux"], config["swinir"]
    shared: FluxSizes = {
        "in_channels": flux["in_channels"],
        "num_attention_heads": flux["num_heads"],
        "attention_head_dim": flux["hidden_size"] // flux["num_heads"],
        "joint_attention_dim": flux["context_in_dim"],
        "pooled_projection_dim": flux["vec_in_dim"],
        "axes_dims_rope": tuple(flux["axes_dim"]),
    }
    tiny = MODELS["tiny"]
    return ModelSizes(
        transformer={
            **shared,
            "num_layers": flux["depth"],
            "num_single_layers": flux["depth_single_blocks"],
            "guidance_embeds": flux["guidance_embed"],
        },
        conditioner={**shared, "num_layers": flux["depth"], "branch_depth": config["condition_depth"]},
        connector=config["connector"],
        proxy={
            "embed_dim": swinir["embed_dim"],
            "depths": swinir["depths"],
            "num_heads": swinir["num_heads"],
            "window_size": swinir["window_size"],
            "mlp_ratio": swinir["mlp_ratio"],
        },
        image_encoder=tiny.image_encoder,
        vae=tiny.vae,
        prompt=tiny.prompt,
    )


def recompute(config: Golden, components: Components, golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every golden result, from the golden inputs alone."""
    height, width = config["height"], config["width"]
    results: dict[str, Tensor] = {}
    results["proxy_raw"] = components["proxy"](golden["lq_image"])
    results["proxy"] = components["proxy"].restore(golden["lq_image"])
    results["siglip_tokens"] = components["connector"](golden["siglip_features"]).image_embeds
    for name, (size,) in numbered(golden, r"siglip_input_(\d+)"):
        results[name] = siglip_input(results["proxy"], size, "parity")
    results["wavelet_high"], results["wavelet_low"] = wavelet_split(golden["wavelet_content"])
    results["wavelet_result"] = align_colors(golden["wavelet_content"], results["proxy"])
    results |= _schedules(golden, height, width)
    results |= _denoise(components, golden, results, height, width)
    return results


def _schedules(golden: dict[str, Tensor], height: int, width: int) -> dict[str, Tensor]:
    """schedule_20_steps_1024 is for 1024 px squared, schedule_4_steps for the folder's own size."""
    asked = [(name, steps, height, width) for name, (steps,) in numbered(golden, r"schedule_(\d+)_steps")]
    asked += [(name, steps, side, side) for name, (steps, side) in numbered(golden, r"schedule_(\d+)_steps_(\d+)")]
    return {
        name: set_sigmas(make_scheduler(), steps, schedule_length("published", high, wide)).double()
        for name, steps, high, wide in asked
    }


def numbered(golden: dict[str, Tensor], pattern: str) -> Iterator[tuple[str, list[int]]]:
    """The golden names that are `pattern` from end to end, with the numbers in them."""
    for name in golden:
        found = re.fullmatch(pattern, name)
        if found:
            yield name, [int(number) for number in found.groups()]


def _denoise(
    components: Components, golden: dict[str, Tensor], results: dict[str, Tensor], height: int, width: int
) -> dict[str, Tensor]:
    """Branches, modulation, control and velocity at the golden timestep; then the sampler's steps from the noise."""
    conditioner, transformer = components["conditioner"], components["transformer"]
    rows, columns = height // 16, width // 16
    text = torch.cat([golden["txt"], results["siglip_tokens"]], 1)
    prepared = conditioner.prepare(
        2 * golden["lq_image"] - 1, 2 * results["proxy"] - 1, golden["txt"], golden["vec"], golden["guidance"]
    )
    ids = position_ids(rows, columns)
    latent = pack(golden["noise"])
    out = {"packed_noise": latent}

    def velocity(latent: Tensor, timestep: Tensor, control: Control | None) -> Tensor:
        return transformer(
            hidden_states=latent,
            encoder_hidden_states=text,
            pooled_projections=golden["vec"],
            timestep=timestep,
            img_ids=ids,
            txt_ids=torch.zeros(text.shape[1], 3),
            guidance=golden["guidance"],
            controlnet_block_samples=control,
            return_dict=False,
        )[0]

    time = golden["timestep"]
    for name, branch, constants in (
        ("lq", conditioner.branch_lq, prepared.lq),
        ("proxy", conditioner.branch_proxy, prepared.proxy),
    ):
        for index, feature in enumerate(branch(latent, time, constants, prepared.rotary)):
            out[f"branch_{name}_{index}"] = feature
    control = Control(conditioner(latent, time, prepared))
    for name, (layer,) in numbered(golden, r"modulated_lq_layer(\d+)"):
        out[name] = Control(control.conditions, proxy_strength=0)[layer]
    out |= {f"control_{layer:02d}": tensor for layer, tensor in enumerate(control)}
    out["velocity"] = velocity(latent, time, control)
    out["velocity_plain"] = velocity(latent, time, None)
    for name, (steps,) in numbered(golden, r"latent_after_(\d+)_steps"):
        after = latent
        for now, then in itertools.pairwise(results[f"schedule_{steps}_steps"].float()):
            given = Control(conditioner(after, now[None], prepared))
            after = after + (then - now) * velocity(after, now[None], given)
        out[name] = after
        out["latent_unpacked"] = unpack(after, rows, columns)
    return out
