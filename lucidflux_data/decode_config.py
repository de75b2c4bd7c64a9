"""Settings of decoding: what is read at most, and for how long."""

from __future__ import annotations

from pydantic import Field

from lucidflux_data.config import Section, since

DEFAULT_MAX_PIXELS = 178_000_000  # Pillow's own error limit is 2 x 89,478,485; the same order, said in round figures
DEFAULT_MAX_FILE_BYTES = 2 << 30
DEFAULT_MAX_MEMORY_BYTES = 8 << 30  # over what any format takes at the pixel budget above


class DecodeConfig(Section):
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)  # width x height from the header, before anything is allocated
    timeout_s: float = Field(120.0, gt=0)  # of decoding and measuring one image; then decode_timeout
    # Encoded bytes of one image, before they are read; then too_many_bytes.
    max_file_bytes: int = Field(DEFAULT_MAX_FILE_BYTES, ge=1, json_schema_extra=since("0.3.0"))
    # What decoding takes at its peak, estimated from the header; then out_of_memory.
    max_memory_bytes: int = Field(DEFAULT_MAX_MEMORY_BYTES, ge=1, json_schema_extra=since("0.3.0"))
