"""Pure data code: bytes, arrays, tables, tars. Importing it loads neither ray nor torch.

The public names are looked up when they are used, so that `--help` does not wait for OpenCV:

    ImageError       why one image cannot be used
    Pairs            a folder of pairs: each of them, a torch Dataset, a WebDataset pipeline
    RealESRGANPairs  a torch Dataset of pairs that are made on line
    Run              a run of the filter: its ledger, other rules tried on it, its images
    decode           encoded bytes to 8-bit sRGB pixels
    decode_full      the same, with the header and what was done on the way
    degrade          the LQ of an image, by a preset and a seed
    measure_bytes    blur and flat measures of an encoded image
    measure_luma     the same of a plane of luma
    metric           a quality metric by name, for images in memory or files
    upsample_lq      an LQ brought to the size of its HQ, bicubically
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidflux_data.images import ImageError, decode, decode_full, upsample_lq
    from lucidflux_data.measures.blur_and_flat import measure_bytes, measure_luma
    from lucidflux_data.pairs.dataset import RealESRGANPairs
    from lucidflux_data.surface.pairs import Pairs
    from lucidflux_data.surface.pictures import degrade, metric
    from lucidflux_data.surface.run import Run

__all__ = [
    "ImageError",
    "Pairs",
    "RealESRGANPairs",
    "Run",
    "decode",
    "decode_full",
    "degrade",
    "measure_bytes",
    "measure_luma",
    "metric",
    "upsample_lq",
]

_MODULE_OF = {
    "ImageError": "images",
    "Pairs": "surface.pairs",
    "RealESRGANPairs": "pairs.dataset",
    "Run": "surface.run",
    "decode": "images",
    "decode_full": "images",
    "degrade": "surface.pictures",
    "measure_bytes": "measures.blur_and_flat",
    "measure_luma": "measures.blur_and_flat",
    "metric": "surface.pictures",
    "upsample_lq": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
