"""Every setting of `lucidflux restore`: with LucidFlux, and with a network from a file. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lucidflux_data.config import Section, since
from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS, DecodeConfig
from lucidflux_model.inference.config import SEED, TINY, ModelConfig
from lucidflux_model.inference.request import Request

DEFAULT_TILE = 256  # pixels of the input, where the network of a file may be tiled
FILE_SUFFIXES = (".pth", ".safetensors", ".pt", ".ckpt")


def is_network_file(model: str | None) -> bool:
    """Whether a value of --model is a file of weights, and no name of ours."""
    return model is not None and model.lower().endswith(FILE_SUFFIXES)


class OutputConfig(Section):
    """What every model's results have in common."""

    batch: int = Field(1, ge=1)
    format: Literal["png", "png16", "jpeg"] = "png"
    jpeg_quality: int = Field(95, ge=1, le=100)
    max_input_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)
    max_output_pixels: int = Field(4096 * 4096, ge=256)
    decode: DecodeConfig = Field(DecodeConfig(), json_schema_extra=since("0.3.0"))  # max_input_pixels limits too


class NetworkModel(Section):
    """A published network in a file of weights. `extra_archs`: also the architectures of spandrel_extra_arches."""

    file: str
    extra_archs: bool = False
    device: str = Field("auto", exclude=True)


class NetworkConfig(OutputConfig):
    """Everything that decides what an image restored by a network of a file is. Sides are those of the input.

    `tile`: 0 is never; None is 256, 512 or never, as suits the network (`network.pick_tile`).
    """

    model: NetworkModel
    tile: int | None = Field(None, ge=0)
    overlap: int = Field(32, ge=0)
    max_output_pixels: int = Field(8192 * 8192, ge=256)

    @model_validator(mode="after")
    def _tiles_go_forward(self) -> Self:
        tile = DEFAULT_TILE if self.tile is None else self.tile
        if tile and tile <= 2 * self.overlap:
            raise ValueError(f"tile is over twice the overlap ({self.overlap}), not {tile}")
        return self


class RestoreConfig(OutputConfig):
    """Everything that decides what an image restored by LucidFlux is. The model `tiny` has smaller defaults (TINY)."""

    model: ModelConfig = ModelConfig()
    steps: int = Field(28, ge=1)
    guidance: float = Field(4.0, ge=0)
    upscale: float = Field(4.0, gt=0)
    height: int | None = Field(None, ge=16)  # instead of upscale, for all images; one keeps the aspect ratio
    width: int | None = Field(None, ge=16)
    seed: int = SEED
    proxy_strength: float = 1.0
    schedule: Literal["published", "flux"] = "published"
    numerics: Literal["fast", "parity"] = "fast"
    color_fix: Literal["proxy", "lq", "none"] = "proxy"
    tile: int = Field(1024, ge=0)
    overlap: int = Field(128, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _small_for_tiny(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        model = values.get("model", {})
        name = model.get("name") if isinstance(model, Mapping) else model.name
        return {**TINY, **values} if name == "tiny" else values

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        Request(self.steps, tile=self.tile, overlap=self.overlap)
        return self


def is_random(config: RestoreConfig | NetworkConfig) -> bool:
    """Whether the weights are tiny's own, which restore nothing."""
    model = config.model
    return isinstance(model, ModelConfig) and (model.name, model.weights, model.trained) == ("tiny", None, None)
