"""Settings of a synthesis job: the degradation, and how pairs are stored."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, field_validator

from lucidflux_data.config import Section, deciding_values, describe_changes, resolve
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.degradation.config import DegradeConfig, make_degrade_config, read_preset
from lucidflux_data.shards.config import ShardConfig
from lucidflux_data.storage.config import StorageConfig


class PairsConfig(Section):
    """A synthesis job: the degradation, how many variants of each HQ, and how pairs are stored."""

    degrade: DegradeConfig = DegradeConfig()
    variants: int = Field(4, ge=1, le=100)
    """Pairs that are made of each image. Unit: pairs. Source: arXiv 2509.22414 v4 (342K images, 1.37M pairs)."""
    hq: str = "png"
    """How an HQ is stored: png, webp (lossless), jpeg:Q (4:4:4) or ref (a pointer into the source)."""
    decode: DecodeConfig = DecodeConfig()
    shards: ShardConfig = ShardConfig()
    storage: StorageConfig = StorageConfig()  # how remote stores are spoken to; in no digest

    @field_validator("hq")
    @classmethod
    def _known(cls, value: str) -> str:
        kind, _, quality = value.partition(":")
        known = value in ("png", "webp", "ref") or (kind == "jpeg" and quality.isdigit() and 1 <= int(quality) <= 100)
        if not known:
            raise ValueError(f"an HQ is stored as png, webp, jpeg:Q (Q 1..100) or ref, not {value!r}")
        return value


def make_pairs_config(preset: str, file: str | None = None, settings: Iterable[str] = ()) -> PairsConfig:
    """A whole job: the preset is its `degrade` part. ConfigError where a setting is wrong."""
    return resolve(PairsConfig, {"degrade": read_preset(preset)}, file, settings)


def deciding(config: PairsConfig) -> dict[str, object]:
    """The part of the config that decides the bytes of the pairs."""
    return {name: value for name, value in deciding_values(config).items() if name != "storage"}


def pairs_label(preset: str, config: PairsConfig) -> str:
    """The preset and every change of the degradation that can be seen in a pixel."""
    alike = {"size": config.degrade.size, "seed": config.degrade.seed}
    plain = make_degrade_config(preset).model_copy(update=alike)  # unchecked: the size may not suit the preset's scale
    inferred = " (values inferred: no data code of LucidFlux is published)" if preset == "lucidflux" else ""
    return describe_changes(preset, plain, config.degrade) + inferred
