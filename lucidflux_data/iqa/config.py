"""Settings of the quality metric."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lucidflux_data.config import Section


class IQAConfig(Section):
    metric: str = "clipiqa"  # a name that lucidflux_data.iqa knows, or "none"
    batch_megapixels: float = Field(8.0, gt=0)  # images of one size that are scored together, where the metric allows
    max_megapixels: float | None = Field(None, gt=0)  # a larger image is scored as `oversize` says
    oversize: Literal["fail", "downscale", "tile"] = "fail"
