"""Every setting of `lucidflux restore`: with LucidFlux, and with a network from a file. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lucidflux_data.config import Section, since
from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS, DecodeConfig
from lucidflux_data.errors import ConfigError
from lucidflux_model.inference.config import SEED, TINY, ModelConfig
from lucidflux_model.inference.request import Request

DEFAULT_TILE = 256  # pixels of the input, where the network of a file may be tiled
FILE_SUFFIXES = (".pth", ".safetensors", ".pt", ".ckpt")


def is_network_file(model: str | None) -> bool:
    """Whether a value of --model is a file of weights, and no name of ours."""
    return model is not None and model.lower().endswith(FILE_SUFFIXES)


def refuse_other_file(model: str | None) -> None:
    """ConfigError for a value of --model that is neither a name nor, by its suffix, a file of weights."""
    if model is not None and not is_network_file(model) and (PurePath(model).suffix or "/" in model):
        raise ConfigError(f"--model {model} is no file of weights: those end in {', '.join(FILE_SUFFIXES)}")


class OutputConfig(Section):
    """What every model's results have in common."""

    batch: int = Field(1, ge=1)
    """Images of one size in one call. Unit: images."""
    format: Literal["png", "png16", "jpeg"] = "png"
    """How results are written: PNG of 8 or 16 bits, or JPEG."""
    jpeg_quality: int = Field(95, ge=1, le=100)
    """Quality with format jpeg. Unit: libjpeg quality."""
    max_input_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)
    """Width x height of an input; over it too_many_pixels. Unit: pixels. Source: Pillow's own limit, in round figures.
    """
    max_output_pixels: int = Field(4096 * 4096, ge=256)
    """Width x height of a result; over it the input is a failure. Unit: pixels."""
    decode: DecodeConfig = Field(DecodeConfig(), json_schema_extra=since("0.3.0"))  # max_input_pixels limits too


class NetworkModel(Section):
    """A published network in a file of weights. `extra_archs`: also the architectures of spandrel_extra_arches."""

    file: str
    """A file of weights: .pth, .pt, .ckpt or .safetensors."""
    extra_archs: bool = False
    """Also the architectures of spandrel_extra_arches, whose licences differ."""
    device: str = Field("auto", exclude=True)
    """auto, cpu, cuda, cuda:1 ..."""


class NetworkConfig(OutputConfig):
    """Everything that decides what an image restored by a network of a file is. Sides are those of the input.

    `tile`: 0 is never; None is 256, 512 or never, as suits the network (`network.pick_tile`).
    """

    model: NetworkModel
    tile: int | None = Field(None, ge=0)
    """Side over which an input is tiled; 0 is never, none is 256, 512 or never, as suits the network. Unit: pixels."""
    overlap: int = Field(32, ge=0)
    """What neighbouring tiles share. Unit: pixels."""
    max_output_pixels: int = Field(8192 * 8192, ge=256)
    """Width x height of a result; over it the input is a failure. Unit: pixels."""

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
    """Sampling steps; under 15 results go soft. 4 with tiny. Unit: steps. Source: the published inference."""
    guidance: float = Field(4.0, ge=0)
    """Value of the guidance embedding. Unit: guidance scale. Source: the published inference."""
    upscale: float = Field(4.0, gt=0)
    """Side of the result over side of the input. 1 with tiny. Unit: ratio. Source: the published inference."""
    height: int | None = Field(None, ge=16)
    """Of all results, in place of upscale; one of the two keeps the aspect ratio. Unit: pixels."""
    width: int | None = Field(None, ge=16)
    """Of all results, in place of upscale; one of the two keeps the aspect ratio. Unit: pixels."""
    seed: int = SEED
    """Of the noise, the same for every image. Unit: seed. Source: the published inference."""
    proxy_strength: float = 1.0
    """Weight of the proxy's branch. Unit: factor. Source: the published inference."""
    schedule: Literal["published", "flux"] = "published"
    """The noise schedule as published, or shifted by the true count of tokens. Source: the published inference."""
    numerics: Literal["fast", "parity"] = "fast"
    """float32 where it decides, or the casts of the published code. Source: docs/model.md."""
    color_fix: Literal["proxy", "lq", "none"] = "proxy"
    """Colours of the result follow the proxy, the LQ, or nothing. Source: the published inference."""
    tile: int = Field(1024, ge=0)
    """Side over which an image is tiled; 0 is never. Unit: pixels. Source: docs/model.md."""
    overlap: int = Field(128, ge=0)
    """What neighbouring tiles share. Unit: pixels. Source: docs/model.md."""

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
