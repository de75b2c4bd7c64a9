"""Settings of shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lucidflux_data.config import Section, since, split_list


class ShardConfig(Section):
    max_samples: int = Field(1000, ge=1)
    """Samples in a shard, at most. Unit: samples."""
    max_bytes: int = Field(1_000_000_000, ge=10_240)
    """Size of a shard, at most; a larger sample has one of its own. Unit: bytes."""
    strip: tuple[Literal["gps", "author"], ...] = ()
    """Takes all metadata out but what makes the pixels; gps alone leaves the copyright. It changes sha256 and key."""
    strip_unsupported: Literal["refuse", "keep", "drop"] = Field("refuse", json_schema_extra=since("0.2.0"))
    """Images of formats that `strip` does not look into: packing is refused, they go along as they are, or not at all.
    """
    normalize: bool = False
    """Re-encode, losslessly, the images whose stock decoding differs from ours."""

    @field_validator("strip", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return split_list(value)
