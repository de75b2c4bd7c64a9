"""Settings of shards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lucidflux_data.config import Section, split_list


class ShardConfig(Section):
    max_samples: int = Field(1000, ge=1)
    max_bytes: int = Field(1_000_000_000, ge=10_240)
    strip: tuple[Literal["gps", "author"], ...] = ()  # tags that do not go along; changes bytes and their sha256
    normalize: bool = False  # re-encode, losslessly, the images whose stock decoding differs from ours

    @field_validator("strip", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return split_list(value)
