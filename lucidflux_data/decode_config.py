"""Settings of decoding: what is read at most, and for how long."""

from __future__ import annotations

from pydantic import Field

from lucidflux_data.config import Section, since

DEFAULT_MAX_PIXELS = 178_000_000  # Pillow's own error limit is 2 x 89,478,485; the same order, said in round figures
DEFAULT_MAX_FILE_BYTES = 2 << 30
DEFAULT_MAX_MEMORY_BYTES = 8 << 30  # over what any format takes at the pixel budget above


class DecodeConfig(Section):
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)
    """Width x height by the header, before anything is allocated; over it too_many_pixels. Unit: pixels. Source:
    Pillow's own limit, in round figures."""
    timeout_s: float = Field(120.0, gt=0)
    """Time for decoding and measuring one image; then decode_timeout. Unit: seconds."""
    max_file_bytes: int = Field(DEFAULT_MAX_FILE_BYTES, ge=1, json_schema_extra=since("0.3.0"))
    """Encoded size of one image, before it is read; over it too_many_bytes. Unit: bytes."""
    max_memory_bytes: int = Field(DEFAULT_MAX_MEMORY_BYTES, ge=1, json_schema_extra=since("0.3.0"))
    """What decoding takes at its peak, estimated from the header; over it out_of_memory. Unit: bytes."""
