"""Settings of shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lucidflux_data.config import Section, since, split_list


class ShardConfig(Section):
    max_samples: int = Field(1000, ge=1)
    max_bytes: int = Field(1_000_000_000, ge=10_240)
    strip: tuple[Literal["gps", "author"], ...] = ()  # what may stay: see stripping; changes bytes and their sha256
    # images of formats that strip does not look into: packing is refused, they go along as they are, or not at all
    strip_unsupported: Literal["refuse", "keep", "drop"] = Field("refuse", json_schema_extra=since("0.2.0"))
    normalize: bool = False  # re-encode, losslessly, the images whose stock decoding differs from ours

    @field_validator("strip", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return split_list(value)
