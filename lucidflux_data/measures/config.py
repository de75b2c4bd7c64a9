"""Settings of the blur and flat-region measures, with their default values."""

from __future__ import annotations

from pydantic import Field

from lucidflux_data.config import Section

PATCH_PX = 240
FLAT_GRADIENT_VARIANCE = 800.0
MAX_PATCH_PX = 360  # the sum of one patch row's magnitudes in 1/4096 then stays below 2^31


class MeasureConfig(Section):
    patch_px: int = Field(PATCH_PX, ge=3, le=MAX_PATCH_PX)
    flat_gradient_variance: float = Field(FLAT_GRADIENT_VARIANCE, ge=0)
