"""From names to a pipeline that is ready: which weights, which precision, which of the offloads the memory allows.

tiny      random weights, built here        flux-dev    a folder that `lucidflux weights convert` made
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from lucidflux_data.errors import ConfigError, InputError, needs_extra
from lucidflux_model.inference.config import ModelConfig, check_weights
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.network.build import build_random
from lucidflux_model.network.device import pick_device
from lucidflux_model.network.schedule import make_scheduler
from lucidflux_model.weights.published import load_lucidflux

ACTIVATIONS = 3e9  # bytes beside the weights: twice the largest that one tile of 1024 x 1024 takes (docs/model.md)


def load_pipeline(config: ModelConfig, numerics: str, tile: int = 1024) -> LucidFluxPipeline:
    """`tile`: pixels along a side of what it will be given, which decides what offload=auto leaves room for.

    Raises ConfigError or InputError where the model cannot be had, with what to do.
    """
    check_weights(config)
    device = pick_device(config.device)
    if config.weights is not None:
        pipeline = _pretrained(config, numerics)
    else:
        pipeline = LucidFluxPipeline(**build_random(config.name, config.seed), scheduler=make_scheduler())
    if config.trained is not None:
        load_lucidflux(pipeline.conditioner, pipeline.connector, Path(config.trained))
    if config.quantize == "fp8":
        compute = pipeline.conditioner.dtype
        pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    place(pipeline, config.offload, device, tile)
    if config.compile:
        pipeline.transformer.compile_repeated_blocks()
        pipeline.conditioner.compile_repeated_blocks()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pretrained(config: ModelConfig, numerics: str) -> LucidFluxPipeline:
    """A converted folder. The proxy stays in float32, and with parity the VAE too; tiny is float32 throughout."""
    assert config.weights is not None, "check_weights has looked"
    folder = Path(config.weights)
    default = torch.float32 if config.name == "tiny" else torch.bfloat16
    vae = torch.float32 if numerics == "parity" else default
    given: dict[str, object] = {}
    if config.quantize == "nf4":
        given["transformer"] = _nf4(folder, default)
    dtypes = {"default": default, "proxy": torch.float32, "vae": vae}
    quiet_libraries()
    given |= {"dtype": dtypes, "local_files_only": True, "use_safetensors": True}  # a pickle is never run
    try:
        pipeline: LucidFluxPipeline = LucidFluxPipeline.from_pretrained(str(folder), **given)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    return pipeline


def _nf4(folder: Path, dtype: torch.dtype) -> FluxTransformer2DModel:
    with needs_extra("nf4"):
        import bitsandbytes  # noqa: F401
    if not torch.cuda.is_available():
        raise ConfigError("nf4 needs a GPU to quantise on: take fp8, or none")
    from diffusers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )
    return FluxTransformer2DModel.from_pretrained(
        str(folder / "transformer"),
        quantization_config=quantization,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
    )


def place(pipeline: LucidFluxPipeline, offload: str, device: torch.device, tile: int = 1024) -> None:
    """Puts the components where they run, or makes them come when they are called."""
    if offload == "auto":
        free = float("inf") if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
        offload = choose_offload(part_bytes(pipeline), free, tile)
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        if device.type == "cpu":
            raise ConfigError("offload=model moves components to an accelerator, and there is none")
        pipeline.enable_model_cpu_offload(device=device)
    else:
        resident = ["conditioner", "prompt", "proxy"]
        for name in resident:
            getattr(pipeline, name).to(device)
        pipeline.enable_group_offload(
            onload_device=device,
            offload_type="leaf_level",
            use_stream=device.type == "cuda",
            exclude_modules=resident,
        )


def choose_offload(sizes: Mapping[str, float], free: float, tile: int = 1024) -> str:
    """The fastest choice that fits `free` bytes: everything, the largest component, or its layers one by one."""
    needs = memory_needs(sizes, tile)
    return next((choice for choice in ("none", "model") if needs[choice] <= free), "group")


def memory_needs(sizes: Mapping[str, float], tile: int = 1024) -> dict[str, float]:
    """Bytes that each choice takes, from the bytes of each component. group keeps what runs at every step."""
    resident = sizes["conditioner"] + sizes["prompt"]
    room = activations_of(tile)
    return {
        "none": sum(sizes.values()) + room,
        "model": max(sizes.values()) + resident + room,
        "group": resident + sizes["proxy"] + room,
    }


def activations_of(tile: int) -> float:
    """Bytes beside the weights for tiles of that side. They go with the area; under 512 px the text's tokens weigh more
    than the image's. An image that is never tiled (0) is counted as 1024."""
    return ACTIVATIONS * (max(tile or 1024, 512) / 1024) ** 2


def part_bytes(pipeline: LucidFluxPipeline) -> dict[str, float]:
    return {name: module_bytes(part) for name, part in pipeline.components.items() if hasattr(part, "parameters")}


def module_bytes(module: Any) -> int:
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def quiet_libraries() -> None:
    """Their bars and warnings give way to our own lines."""
    import logging

    import transformers
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
