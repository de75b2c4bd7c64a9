"""Pure data code: bytes, arrays, tables, tars. Importing it loads neither ray nor torch.

The public names are looked up when they are used, so that `--help` does not wait for OpenCV:

    ImageError       why one image cannot be used
    RealESRGANPairs  a torch Dataset of pairs that are made on line
    decode           encoded bytes to 8-bit sRGB pixels
    decode_full      the same, with the header and what was done on the way
    measure_bytes    blur and flat measures of an encoded image
    measure_luma     the same of a plane of luma
    upsample_lq      an LQ brought to the size of its HQ, bicubically
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidflux_data.images import ImageError, decode, decode_full, upsample_lq
    from lucidflux_data.measures.blur_and_flat import measure_bytes, measure_luma
    from lucidflux_data.pairs.dataset import RealESRGANPairs

__all__ = ["ImageError", "RealESRGANPairs", "decode", "decode_full", "measure_bytes", "measure_luma", "upsample_lq"]

_MODULE_OF = {
    "ImageError": "images",
    "RealESRGANPairs": "pairs.dataset",
    "decode": "images",
    "decode_full": "images",
    "measure_bytes": "measures.blur_and_flat",
    "measure_luma": "measures.blur_and_flat",
    "upsample_lq": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
