"""Settings of decoding: what is read at most, and for how long."""

from __future__ import annotations

from pydantic import Field

from lucidflux_data.config import Section

DEFAULT_MAX_PIXELS = 178_000_000  # Pillow's own error limit is 2 x 89,478,485; the same order, said in round figures


class DecodeConfig(Section):
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)  # width x height from the header, before anything is allocated
    timeout_s: float = Field(120.0, gt=0)  # of decoding and measuring one image; then decode_timeout
