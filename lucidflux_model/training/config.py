"""The settings of a training run, and which of them may change when the run goes on.

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
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.storage.config import StorageConfig

CACHED = ("latent", "proxy", "semantic")  # what samples/cached.py can keep; that module imports torch
BINS = 5  # equal ones of sigma, in which losses are reported
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
    """flux-dev, or tiny: a random backbone at small width, for plumbing."""
    weights: str | None = None
    """A folder made by `lucidflux weights convert`; tiny needs none."""
    seed: int = 0
    """Of tiny's random weights. Unit: seed."""


class DataConfig(Section):
    """`online`: the preset that degrades clean images as they are read; none reads shards of pairs."""

    online: str | None = None
    """Preset that degrades clean images as they are read; none reads shards of pairs."""
    online_settings: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Settings of those pairs, as `--set` of synthesize has them below degrade: size=512."""
    window: int = Field(4, ge=1)
    """Shards whose samples are shuffled into one another. Unit: shards."""
    max_corrupt: int = Field(100, ge=0)
    """Samples that may be replaced since the beginning; over it the run stops. Unit: samples."""
    cached: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """What is taken from `lucidflux cache`, out of latent, proxy, semantic."""
    workers: int = Field(4, ge=0)
    """Processes that read, for each process that trains. Unit: processes."""

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
    """Share of the groups that never enters training. Unit: share of the groups."""
    suites: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """Folders of prepared benchmarks that are measured too; they mark the checkpoint as contaminated."""
    every: int = Field(500, ge=1)
    """Steps from one validation to the next. Unit: steps."""
    samples: int = Field(32, ge=1)
    """Pairs that are measured: those of lowest hash, and as many of each suite. Unit: pairs."""
    images: int = Field(2, ge=0)
    """Pairs that are restored and saved as strips. Unit: pairs."""
    steps: int = Field(12, ge=1)
    """Steps of the sampler for them. Unit: steps."""


class TrainConfig(Section):
    model: BaseConfig = BaseConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    storage: StorageConfig = StorageConfig()

    steps: int = Field(20_000, ge=1)
    """Optimizer steps of the whole run. Unit: steps."""
    batch_size: int = Field(32, ge=1)
    """Samples of one step over all processes. Unit: samples. Source: arXiv 2509.22414 v4, training."""
    micro_batch: int | None = Field(None, ge=1)
    """Samples that one process takes at once, the rest is accumulated; none: all of its share. Unit: samples."""
    seed: int = Field(0, ge=0)
    """Of order, noise, sigma and dropout. Unit: seed."""

    optimizer: Literal["adamw", "adafactor"] = "adamw"
    """adamw or adafactor. Source: ControlNet trainers of diffusers and x-flux."""
    learning_rate: float = Field(2e-5, gt=0)
    """Rate after the warm-up. Unit: change a step. Source: arXiv 2509.22414 v4, training."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Course of the rate after the warm-up. Source: the published training script."""
    warmup: int = Field(500, ge=0)
    """Steps over which the rate rises from 0. Unit: steps. Source: the published training script."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of the weights. Unit: factor. Source: arXiv 2509.22414 v4, training."""
    betas: Annotated[tuple[float, float], BeforeValidator(_pair)] = (0.9, 0.999)
    """Decay of AdamW's two moments. Unit: factor a step. Source: ControlNet trainers of diffusers and x-flux."""
    clip: float = Field(1.0, gt=0)
    """Norm to which the gradient is cut. Unit: norm. Source: the published training script."""
    ema: float = Field(0.9999, ge=0, lt=1)
    """Decay of the moving average of the weights; 0 is none. Unit: factor a step."""

    timestep_sampling: Literal["logit-normal", "flux-shift", "published-script"] = "flux-shift"
    """Distribution of sigma: shifted by e^mu of the token count, plain logit-normal, or as the published script.
    Source: the sampler of FLUX.1-dev."""
    flow_shift: float | None = Field(None, gt=0)
    """Multiplies the odds of sigma with flux-shift; none: e^mu of the token count. Unit: factor."""
    guidance: Annotated[tuple[float, float], BeforeValidator(_pair)] = (4.0, 4.0)
    """Interval from which the guidance embedding is drawn; one value is always that one. Unit: guidance scale. Source:
    the published inference."""
    drop_semantic: Fraction = 0.0
    """How often the SigLIP2 tokens of a sample are zero. Unit: probability."""
    drop_branch: Fraction = 0.0
    """How often one of the two branches of a sample is silent. Unit: probability."""
    initialisation: Literal["safe", "published"] = "safe"
    """Branches that begin silent over the backbone's first blocks, or with zero last layers as published."""
    connector: str | None = None
    """A file with the connector's first weights, as FLUX.1-Redux's."""

    checkpoint_every: int = Field(500, ge=1)
    """Steps from one checkpoint to the next. Unit: steps. Source: the published training script."""
    keep_checkpoints: int = Field(3, ge=1)
    """Checkpoints that stay. Unit: checkpoints."""
    max_skipped: int = Field(10, ge=1)
    """Steps in a row whose gradient is not finite, after which the run stops. Unit: steps."""
    tensorboard: bool = True
    """Whether curves are written for TensorBoard too."""
    trackers: Annotated[tuple[Literal["wandb", "mlflow"], ...], BeforeValidator(_names)] = ()
    """Services that get the figures too, out of wandb, mlflow (extra `trackers`)."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the computation; auto is bf16 on GPUs, else fp32."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Whole weights in each process, or sharded over them."""
    shard_frozen: bool = False
    """With fsdp: the frozen backbone is sharded too."""
    checkpointing: Literal["off", "selective", "full"] = "full"
    """What of the activations is computed again: nothing, all but attention, or all."""
    compile: bool = False
    """Whether torch.compile is used."""
    deterministic: bool = False
    """Deterministic algorithms of torch alone; slower on GPUs."""

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

    def fixed_settings(self) -> dict[str, Any]:
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
    if file is not None and not os.path.exists(file):
        names = sorted(path.name.removesuffix(".toml") for path in ours.iterdir() if path.name.endswith(".toml"))
        raise ConfigError(f"--config {file} is neither a file nor one of ours: {suggest(file, names)}")
    return resolve(TrainConfig, {}, file, settings)
