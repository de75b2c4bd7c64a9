"""Settings of a synthesis job: the degradation, and how pairs are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from lucidflux_data.config import Section, deciding_values, describe_changes, resolve, since
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.degradation.config import DegradeConfig, make_degrade_config, read_preset
from lucidflux_data.shards.config import ShardConfig
from lucidflux_data.storage.config import StorageConfig

NEW_ENCODER = "libdeflate"  # of folders that are begun now


class PairsConfig(Section):
    """A synthesis job: the degradation, how many variants of each HQ, and how pairs are stored."""

    degrade: DegradeConfig = DegradeConfig()
    variants: int = Field(4, ge=1, le=100)
    """Pairs that are made of each image. Unit: pairs. Source: arXiv 2509.22414 v4 (342K images, 1.37M pairs)."""
    hq: str = "png"
    """How an HQ is stored: png, jxl or webp (both lossless), jpeg:Q (4:4:4) or ref (a pointer into the source)."""
    hq_encoder: Literal["opencv", "libdeflate"] = Field("opencv", json_schema_extra=since("0.6.0"))
    """What writes the PNG of an HQ. A new folder of `synthesize` has libdeflate; one of before 0.6 has opencv."""
    decode: DecodeConfig = DecodeConfig()
    shards: ShardConfig = ShardConfig()
    storage: StorageConfig = StorageConfig()  # how remote stores are spoken to; in no digest

    @field_validator("hq")
    @classmethod
    def _known(cls, value: str) -> str:
        kind, _, quality = value.partition(":")
        known = value in ("png", "jxl", "webp", "ref") or (
            kind == "jpeg" and quality.isdigit() and 1 <= int(quality) <= 100
        )
        if not known:
            raise ValueError(f"an HQ is stored as png, jxl, webp, jpeg:Q (Q 1..100) or ref, not {value!r}")
        return value


def make_pairs_config(
    preset: str, file: str | None = None, settings: Iterable[str] = (), hq_encoder: str = NEW_ENCODER
) -> PairsConfig:
    """A whole job: the preset is its `degrade` part. ConfigError where a setting is wrong. `hq_encoder`: unless a
    setting says another."""
    return resolve(PairsConfig, {"degrade": read_preset(preset), "hq_encoder": hq_encoder}, file, settings)


def deciding(config: PairsConfig) -> dict[str, object]:
    """The part of the config that decides the bytes of the pairs."""
    return {name: value for name, value in deciding_values(config).items() if name != "storage"}


def pairs_label(preset: str, config: PairsConfig) -> str:
    """The preset and every change of the degradation that can be seen in a pixel."""
    alike = {"size": config.degrade.size, "seed": config.degrade.seed}
    plain = make_degrade_config(preset).model_copy(update=alike)  # unchecked: the size may not suit the preset's scale
    inferred = " (values inferred: no data code of LucidFlux is published)" if preset == "lucidflux" else ""
    return describe_changes(preset, plain, config.degrade) + inferred
