"""Which model a command runs. Imports nothing heavy, so that a wrong setting ends the command at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from lucidflux_data.config import Section
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_model.weights.files import file_sha256, folder_hashes

RANDOM_LABEL = "tiny (random weights: checks the plumbing, restores nothing)"
SEED = 123456789  # of the published inference
# Of the model that checks the plumbing: at 28 steps and four times the size, a photo takes a CPU minutes.
TINY = {"steps": 4, "upscale": 1.0}
Quantize = Literal["none", "fp8", "nf4"]
Offload = Literal["auto", "none", "model", "group"]


class ModelConfig(Section):
    """Which model, and how it is held. `trained`: a file in the layout of lucidflux.pth over the model's own parts."""

    name: Literal["tiny", "flux-dev"] = "flux-dev"
    """flux-dev, or tiny: the real classes at small width with random weights, for plumbing."""
    weights: str | None = None
    """A folder made by `lucidflux weights convert`; tiny needs none."""
    trained: str | None = None
    """A file of trained parts, in the layout of lucidflux.pth, over the model's own."""
    seed: int = 0
    """Of tiny's random weights. Unit: seed."""
    quantize: Quantize = "none"
    """Backbone as it is, in fp8, or in nf4 (extra `nf4`, a GPU)."""
    compile: bool = False
    """Whether torch.compile is used."""
    offload: Offload = Field("auto", exclude=True)
    """Where weights wait, by free memory or as named; the result is the same."""
    device: str = Field("auto", exclude=True)
    """auto, cpu, cuda, cuda:1 ..."""


def check_weights(config: ModelConfig) -> None:
    """Whether there is something to load: ConfigError or InputError with what to do, before any work."""
    if config.weights is None:
        if config.name != "tiny":
            raise ConfigError(
                f"{config.name} needs --weights FOLDER: `lucidflux weights download` and `convert` make it; "
                "--model tiny runs without"
            )
        if config.quantize == "nf4":
            raise ConfigError("nf4 quantises while loading: give tiny's own --weights folder, or take fp8")
    elif not (Path(config.weights) / "model_index.json").is_file():
        raise InputError(
            f"{config.weights} is not a folder of converted weights (no model_index.json): see weights convert"
        )


def weights_digest(config: ModelConfig) -> str:
    """A sha256 that stands for the weights: of the listed file hashes of a converted folder, of the seed of tiny."""
    check_weights(config)
    lines = [f"{config.name} seed {config.seed}"] if config.weights is None else []
    if config.weights is not None:
        lines += [f"{name} {sha256}" for name, sha256 in sorted(folder_hashes(Path(config.weights)).items())]
    if config.trained is not None:
        lines.append(f"trained {file_sha256(Path(config.trained))}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
