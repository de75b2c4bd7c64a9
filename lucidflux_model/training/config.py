"""What a training run is told, and which of it may change when the run goes on.

    defaults (our recipe, configs/lucidflux.toml says where each value is from) < --config FILE < --set a.b=v

`batch_size` counts samples of one optimizer step over all processes, so that a run sees the same batches on any number
of them; `micro_batch` is what one process takes through the model at once, and the rest is accumulation.
"""

from __future__ import annotations

import os
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lucidflux_data.config import Section, resolve
from lucidflux_data.degradation.config import PRESETS
from lucidflux_data.storage.config import StorageConfig
from lucidflux_model.samples.cached import CACHED

BINS = 5  # equal ones of sigma, in which losses are told
Fraction = Annotated[float, Field(ge=0, le=1)]


def _pair(value: object) -> object:
    """`4` or `1,4`, as text, number or list."""
    parts = value.split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int | float) else parts
    return [*parts, *parts] if isinstance(parts, list) and len(parts) == 1 else parts


def _names(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class BaseConfig(Section):
    """The model, as of `restore`. `weights`: a folder of `weights convert`; tiny needs none."""

    name: str = "flux-dev"
    weights: str | None = None
    seed: int = 0  # of tiny's random weights


class DataConfig(Section):
    """`online`: the preset that degrades clean images as they are read; none reads shards of pairs."""

    online: str | None = None
    online_settings: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()  # as `--set` of synthesize, "size=512"
    window: int = Field(4, ge=1)  # shards that are shuffled into one another
    max_corrupt: int = Field(100, ge=0)  # samples that were replaced since the beginning
    cached: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()  # of CACHED: taken from `lucidflux cache`
    workers: int = Field(4, ge=0)  # processes that read, for each process that trains

    @model_validator(mode="after")
    def _known(self) -> DataConfig:
        if self.online is not None and self.online not in PRESETS:
            raise ValueError(f"online is a preset of pairs, {', '.join(PRESETS)}, not {self.online!r}")
        if set(self.cached) - set(CACHED):
            raise ValueError(f"cached is out of {', '.join(CACHED)}")
        if self.cached and self.online:
            raise ValueError("online pairs are new in every epoch: nothing of them is cached")
        return self


class ValidationConfig(Section):
    """`fraction` of the groups never enters training; `samples` of them, those of lowest hash, are measured, and as
    many of each of `suites`: folders of prepared benchmarks, which mark the checkpoint as contaminated."""

    fraction: Fraction = 0.002
    suites: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    every: int = Field(500, ge=1)  # steps
    samples: int = Field(32, ge=1)
    images: int = Field(2, ge=0)  # restored and saved as strips
    steps: int = Field(12, ge=1)  # of the sampler


class TrainConfig(Section):
    model: BaseConfig = BaseConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    storage: StorageConfig = StorageConfig()

    steps: int = Field(20_000, ge=1)
    batch_size: int = Field(32, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    optimizer: Literal["adamw", "adafactor"] = "adamw"
    learning_rate: float = Field(2e-5, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(500, ge=0)  # steps
    weight_decay: float = Field(0.01, ge=0)
    betas: Annotated[tuple[float, float], BeforeValidator(_pair)] = (0.9, 0.999)  # adamw
    clip: float = Field(1.0, gt=0)  # norm of the gradient
    ema: float = Field(0.9999, ge=0, lt=1)  # 0: none

    timestep_sampling: Literal["logit-normal", "flux-shift", "published-script"] = "flux-shift"
    flow_shift: float | None = Field(None, gt=0)  # multiplies the odds of sigma; none: e^mu of the token count
    guidance: Annotated[tuple[float, float], BeforeValidator(_pair)] = (4.0, 4.0)
    drop_semantic: Fraction = 0.0  # SigLIP tokens set to zero, per sample
    drop_branch: Fraction = 0.0  # one of the two branches silent, per sample
    initialisation: Literal["safe", "published"] = "safe"
    connector: str | None = None  # a file with the connector's first weights (FLUX.1-Redux's)

    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    max_skipped: int = Field(10, ge=1)  # steps in a row whose gradient is not finite
    tensorboard: bool = True
    trackers: Annotated[tuple[Literal["wandb", "mlflow"], ...], BeforeValidator(_names)] = ()

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    shard_frozen: bool = False  # with fsdp: the backbone too
    checkpointing: Literal["off", "selective", "full"] = "full"
    compile: bool = False
    deterministic: bool = False

    @field_validator("betas")
    @classmethod
    def _under_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("betas are two numbers from 0 to under 1")
        return value

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.guidance[0] > self.guidance[1]:
            raise ValueError(f"guidance runs backwards: {self.guidance[0]:g} to {self.guidance[1]:g}")
        if self.flow_shift is not None and self.timestep_sampling != "flux-shift":
            raise ValueError("flow_shift belongs to timestep_sampling=flux-shift")
        if self.shard_frozen and self.parallel != "fsdp":
            raise ValueError("shard_frozen needs parallel=fsdp")
        return self

    def lasting(self) -> dict[str, Any]:
        """What decides the weights, and so must be the same when a run goes on. Nested names joined by dots."""
        values = self.model_dump()
        for name in FREE:
            part, _, inner = name.partition(".")
            if inner:
                del values[part][inner]
            elif not (name == "steps" and self.schedule == "cosine"):
                del values[name]
        del values["model"]["weights"]  # where they lie says nothing of them; their hash does
        return values


FREE = (
    *("steps", "micro_batch", "checkpoint_every", "keep_checkpoints", "max_skipped"),
    *("tensorboard", "trackers", "storage"),
    *("parallel", "shard_frozen", "checkpointing", "compile", "deterministic", "connector", "initialisation"),
    *("data.workers", "data.max_corrupt", "validation.every", "validation.samples"),
    *("validation.images", "validation.steps", "validation.suites"),
)


def make_train_config(file: str | None, settings: list[str]) -> TrainConfig:
    """`file`: a TOML file, or the name of one of ours: lucidflux, published-script, debug."""
    ours = resources.files("lucidflux_model") / "configs"
    if file is not None and not os.path.exists(file) and (ours / f"{file.removesuffix('.toml')}.toml").is_file():
        with resources.as_file(ours / f"{file.removesuffix('.toml')}.toml") as path:
            return resolve(TrainConfig, {}, str(path), settings)
    return resolve(TrainConfig, {}, file, settings)
