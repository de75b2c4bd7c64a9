"""TIFF: which page is the picture, what its samples mean, and its colours at full depth. Read by tifffile.

Pillow decodes the plain kinds of 8 bits, so that their pixels stay what they were; this module reads what neither
Pillow nor OpenCV reads as the file says: 16 bits in any layout, both kinds of alpha, inverted grey, newer codecs, pages
behind a small copy.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import tifffile

from lucidflux_data.errors import ImageError

PILLOW_CODECS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
MOST_SAMPLES = 8  # of a pixel; more is a measurement, not a picture
PAGES_LOOKED_AT = 16  # for the first one at full resolution
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3, CIELAB: 3}
ASSOCIATED, UNASSOCIATED = 1, 2  # ExtraSamples (TIFF 6.0, tag 338): alpha multiplied into the colours, or not


@dataclass(frozen=True)
class TiffPage:
    """The page that is the picture. `width` and `height` as stored; `alpha`: its kind, 0 for none."""

    number: int
    width: int
    height: int
    bits: int
    photometric: int
    alpha: int
    alpha_at: int
    orientation: int
    icc: bytes | None
    several: bool  # another page at full resolution follows
    several_pages: bool  # another page follows, of whatever resolution
    stored_bytes: int  # of all samples of a pixel, as they are stored
    tile: tuple[int, int]  # width and height of what is decoded at a time, which may be larger than the picture
    is_plain: bool  # Pillow reads it as the file says
    format: str = "tiff"

    @property
    def flags(self) -> tuple[str, ...]:
        return ("palette",) if self.photometric == PALETTE else ()

    def read_colours(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        return read_colours(data, self)

    @property
    def mode(self) -> str:
        """Pillow's name of the mode, with `;16` for 16 bits."""
        names = {1: "L", 3: "RGB", 4: "CMYK"}
        name = names[COLOURS[self.photometric]]
        if self.photometric == PALETTE:
            name = "P"
        elif self.photometric == CIELAB:
            name = "LAB"
        elif self.photometric == YCBCR:
            name = "YCbCr"
        name += "A" if self.alpha else ""
        if name == "L" and self.bits == 16:
            return "I;16"
        return f"{name};16" if self.bits == 16 else name


def read_page(data: bytes) -> TiffPage:
    """The header of the first page at full resolution. ImageError: unsupported_mode, unreadable."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        number, page, several = _find_page(file)
        samples = int(page.samplesperpixel)
        photometric = int(page.photometric)
        sample_format = int(page.sampleformat or 1)
        bits = int(page.bitspersample)
        if sample_format not in (1, 4) or bits not in (1, 2, 4, 8, 16) or photometric not in COLOURS:
            kind = {2: "signed integer", 3: "floating point"}.get(sample_format, "other")
            raise ImageError("unsupported_mode", f"{bits}-bit {kind} samples (photometric {photometric}) are not read")
        if samples > MOST_SAMPLES:
            raise ImageError("unsupported_mode", f"{samples} samples a pixel are not read")
        extras = [int(extra) for extra in page.extrasamples][: max(0, samples - COLOURS[photometric])]
        alphas = [k for k, extra in enumerate(extras) if extra in (ASSOCIATED, UNASSOCIATED)]
        icc = page.tags.get(34675)
        turn = page.tags.get(274)
        orientation = turn.value if turn is not None and isinstance(turn.value, int) else 1
        return TiffPage(
            number=number,
            width=int(page.imagewidth),
            height=int(page.imagelength),
            bits=bits,
            photometric=photometric,
            alpha=extras[alphas[0]] if alphas else 0,
            alpha_at=COLOURS[photometric] + alphas[0] if alphas else -1,
            orientation=orientation if 1 <= orientation <= 8 else 1,
            icc=bytes(icc.value) if icc is not None and isinstance(icc.value, bytes) else None,
            several=several,
            several_pages=_has_page(file, 1),
            stored_bytes=max(1, samples * bits // 8),
            tile=(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (int(page.imagewidth), 1),
            is_plain=_is_plain(page, number, extras),
        )


def _has_page(file: tifffile.TiffFile, number: int) -> bool:
    """Asked without counting the pages, of which there may be hundreds of thousands."""
    try:
        return file.pages[number] is not None
    except IndexError:
        return False


def _is_plain(page: tifffile.TiffPage, number: int, extras: list[int]) -> bool:
    """8 bits at most, the first page, a codec of long ago, and no alpha or a plain one."""
    known = int(page.compression) in PILLOW_CODECS and not (int(page.planarconfig) == 2 and extras)
    return number == 0 and int(page.bitspersample) <= 8 and known and extras in ([], [UNASSOCIATED], [0])


def _find_page(file: tifffile.TiffFile) -> tuple[int, tifffile.TiffPage, bool]:
    full: list[tuple[int, tifffile.TiffPage]] = []
    first = None
    for number in range(PAGES_LOOKED_AT):
        try:
            page = file.pages[number]
        except IndexError:
            break
        if not isinstance(page, tifffile.TiffPage):
            break
        first = page if first is None else first
        kind = page.tags.get(254)
        if not (kind is not None and int(kind.value) & 1):  # NewSubfileType bit 0: a smaller copy of another page
            full.append((number, page))
        if len(full) == 2:
            break
    if first is None:
        raise ImageError("unreadable", "the file has no page")
    number, page = full[0] if full else (0, first)
    return number, page, len(full) > 1


def read_colours(data: bytes, page: TiffPage) -> tuple[np.ndarray, np.ndarray | None]:
    """(colours HxWxC, alpha HxW or None) of a page, uint8 of up to 8 bits and uint16 of 16, not yet upright. Grey is
    black at 0, a palette is looked up. With associated alpha the colours are divided by it no more than they are."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        stored = file.pages[page.number]
        for offset, size in zip(stored.dataoffsets, stored.databytecounts, strict=True):
            if size <= 0 or offset + size > len(data):
                raise ImageError("truncated", "the file ends before the picture does")
        samples = stored.asarray(maxworkers=1)
        if samples.ndim == 3 and stored.axes.startswith("S"):
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.height, page.width, -1)
        colormap = getattr(stored, "colormap", None)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8)
    most = 2**page.bits - 1
    alpha = samples[..., page.alpha_at] if page.alpha else None
    colours = samples[..., : COLOURS[page.photometric]]
    if page.photometric == PALETTE:
        if colormap is None:
            raise ImageError("unreadable", "the palette is missing")
        colours = np.moveaxis(np.asarray(colormap), 0, -1)[colours[..., 0]]
        return colours.astype(np.uint16), alpha
    if page.photometric == WHITE_IS_ZERO:
        colours = most - colours
    if most < 255:
        colours = ((colours.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)
    return np.ascontiguousarray(colours), alpha
