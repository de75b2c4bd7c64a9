"""Settings of object stores and web servers."""

from __future__ import annotations

from pydantic import Field

from lucidflux_data.config import Section


class StorageConfig(Section):
    """How object stores and web servers are spoken to; changes no result. Credentials stay where their clients look."""

    endpoint_url: str | None = None  # of an S3 compatible store; else AWS_ENDPOINT_URL
    anonymous: bool = False
    timeout_s: float = Field(60.0, gt=0)  # without a connection, or without a byte
    attempts: int = Field(3, ge=1)  # of a request, each with as many of the client library's own
