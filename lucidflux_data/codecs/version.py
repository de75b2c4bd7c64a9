"""Which pixels the decoders of this code give: a number that is raised when they change, and the libraries behind it.

1  0.1.0 and 0.1.1, which note no number
2  0.2: other pixels of TIFF and GIF, of PNG with 16 bits, and of grey PNG with a transparent sample value (tRNS)
3  0.4: other pixels of TIFF (palettes, L*a*b*, alpha with a profile, a fourth sample that nothing explains), of AVIF
   and HEIC that name their colours by number, of BMP with a profile, of WebP whose first frame is smaller than its
   canvas, of animated PNG with 16 bits
4  0.6: other pixels of TIFF whose tags contradict each other; a failure in place of a picture that lacks rows (JPEG),
   strips (TIFF) or its palette (PNG)
"""

from __future__ import annotations

import functools
import importlib.metadata

DECODER_VERSION = 4
PLAIN_VERSION = 1  # the first that gave today's pixels of what pairs are stored as: 8-bit RGB in PNG, WebP and JPEG
FIRST = 1  # of what notes no number
LIBRARIES = {
    "imagecodecs": "imagecodecs",
    "opencv": "opencv-python-headless",
    "pillow": "pillow",
    "pillow_heif": "pillow-heif",  # of the extra `formats`
    "tifffile": "tifffile",
}


@functools.cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = []
    for name, distribution in LIBRARIES.items():
        try:
            found.append((name, importlib.metadata.version(distribution)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "none"))
    return tuple(found)


def decoder_libraries() -> dict[str, str]:
    """The version of each library that decodes; "none" for one that is not installed."""
    return dict(_installed())


def decoder_versions() -> dict[str, str]:
    """What decides the pixels of encoded bytes: `decoder` (DECODER_VERSION), and the libraries."""
    return {"decoder": str(DECODER_VERSION), **decoder_libraries()}
