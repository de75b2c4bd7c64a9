"""Settings of object stores and web servers."""

from __future__ import annotations

import os
from typing import TypedDict

from pydantic import Field, field_validator

from lucidflux_data.config import Section, since, split_list


class Settings(TypedDict):
    """How remote stores are spoken to: the `[storage]` table of a config, whose class documents each key."""

    endpoint_url: str | None
    anonymous: bool
    timeout_s: float
    attempts: int
    allow_uris: tuple[str, ...]  # prefixes of uris in tables that may be read beside what lies below the source
    sources: tuple[str, ...]  # what the user named
    own_servers: tuple[str, ...]  # of them, as host:port: all of their addresses are in a private network
    paths_anywhere: bool  # of a run listed before there was an allowance: paths inside its Parquet rows


# They change no result and are in no digest.
SETTINGS: Settings = {
    "endpoint_url": os.environ.get("AWS_ENDPOINT_URL"),
    "anonymous": False,
    "timeout_s": 60.0,
    "attempts": 3,
    "allow_uris": (),
    "sources": (),
    "own_servers": (),
    "paths_anywhere": False,
}


class StorageConfig(Section):
    """How object stores and web servers are spoken to; changes no result. Credentials stay where their clients look."""

    endpoint_url: str | None = None
    """Address of an S3 compatible store; none: AWS_ENDPOINT_URL, else Amazon's."""
    anonymous: bool = False
    """Read S3 and Google's buckets without credentials."""
    timeout_s: float = Field(60.0, gt=0)
    """Time without a connection, or without a byte, after which a request has failed. Unit: seconds."""
    allow_uris: tuple[str, ...] = Field((), json_schema_extra=since("0.3.0"))
    """Prefixes of uris found in tables that may be read, beside what lies below the source."""
    attempts: int = Field(3, ge=1)
    """Attempts of a request, each with as many of the client library's own. Unit: attempts."""

    @field_validator("allow_uris", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`--set storage.allow_uris=s3://a/b,https://c.org`."""
        return split_list(value)

    @field_validator("allow_uris")
    @classmethod
    def _are_places(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if "://" not in prefix and not prefix.startswith("/"):
                raise ValueError(f"{prefix} is no prefix of a uri: it should be like s3://bucket/photos, or /data")
        return prefixes
