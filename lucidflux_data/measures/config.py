"""Settings of the blur and flat-region measures, with their default values."""

from __future__ import annotations

from pydantic import Field, field_validator

from lucidflux_data.config import Section, since

PATCH_PX = 240
FLAT_GRADIENT_VARIANCE = 800.0
MAX_PATCH_PX = 360  # the sum of one patch row's magnitudes in 1/4096 then stays below 2^31


class MeasureConfig(Section):
    patch_px: int = Field(PATCH_PX, ge=3, le=MAX_PATCH_PX)
    """Side of the patches of which flat ones are counted. Unit: pixels. Source: arXiv 2509.22414 v4, data curation."""
    flat_gradient_variance: float = Field(FLAT_GRADIENT_VARIANCE, ge=0)
    """Variance of the Sobel magnitude under which a patch is flat. Unit: squared grey levels. Source: arXiv 2509.22414
    v4, data curation."""
    tiles: int = Field(0, ge=0, le=8192, json_schema_extra=since("0.5.0", silent=True))
    """Side of the tiles that are measured beside the whole image; 0 is off. Unit: pixels."""

    @field_validator("tiles")
    @classmethod
    def _large_enough(cls, value: int) -> int:
        if 0 < value < 64:
            raise ValueError("is under 64 pixels, too small for a spectrum")
        return value
