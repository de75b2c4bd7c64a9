"""Settings of the quality metric."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lucidflux_data.config import Section


class IQAConfig(Section):
    metric: str = "clipiqa"
    """Quality metric of the cut: clipiqa, niqe, any that `lucidflux doctor` lists, or none. Source: arXiv 2509.22414
    v4, data curation."""
    batch_megapixels: float = Field(8.0, gt=0)
    """Images of one size that are scored together, where the metric allows it. Unit: megapixels."""
    max_megapixels: float | None = Field(None, gt=0)
    """A larger image is scored as `oversize` says; none: as it is. Unit: megapixels."""
    oversize: Literal["fail", "downscale", "tile"] = "fail"
    """What becomes of images over max_megapixels: a failure, a smaller copy, or tiles whose scores are averaged."""
