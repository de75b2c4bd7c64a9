"""TIFF: which page is the picture, what its samples mean, and its colours at full depth. Read by tifffile.

Pillow decodes the plain kinds of 8 bits, so that their pixels stay what they were; this module reads what neither
Pillow nor OpenCV reads as the file says: 16 bits in any layout, both kinds of alpha, inverted grey, palettes, newer
codecs, pages behind a small copy. What it does not know the meaning of is refused by name.
"""

from __future__ import annotations

import io
import logging
import math
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

from lucidflux_data.codecs import icc as profiles
from lucidflux_data.codecs.alpha import scale_to_8
from lucidflux_data.errors import ImageError

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # a failure has a sentence of our own
PILLOW_CODECS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
UNCOMPRESSED, JPEG = 1, 7
MOST_SAMPLES = 8  # of a pixel; more is a measurement, not a picture
PAGES_LOOKED_AT = 16  # for the first one at full resolution
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3, CIELAB: 3}
ASSOCIATED, UNASSOCIATED = 1, 2  # ExtraSamples (TIFF 6.0, tag 338): alpha multiplied into the colours, or not
SUBFILE, PHOTOMETRIC, ORIENTATION, COLOR_MAP, INK_SET, PROFILE = 254, 262, 274, 320, 332, 34675
STRIP_BYTES, TILE_BYTES, REFERENCE_BLACK_WHITE = 279, 325, 532
FULL = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)  # ReferenceBlackWhite of what uses all levels: fractions
DNG_VERSION = 50706
BIG_ENDIAN_BIGTIFF = b"MM\0+"  # Pillow takes it for a TIFF of old
VOID = 4  # SampleFormat: not said, and taken for unsigned
SMALLER, MASK = 1, 4  # NewSubfileType: a smaller copy of another page, a mask of one
RAW = frozenset({32803, 34892})  # the samples of a sensor: colour filter array, linear raw (DNG)


@dataclass(frozen=True)
class TiffPage:
    """The page that is the picture. `width` and `height` as stored; `alpha`: its kind, 0 for none."""

    number: int
    below: int  # which page below that one (SubIFDs) is the picture; -1 for itself
    width: int
    height: int
    bits: int
    photometric: int
    alpha: int
    alpha_at: int
    orientation: int
    icc: bytes | None
    several: bool  # another page at full resolution follows
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
    """The header of the first page at full resolution. ImageError: unsupported_format (camera raw), unsupported_mode,
    unreadable."""
    if data[8:10] == b"CR" and data[:2] == b"II":
        raise ImageError("unsupported_format", "Canon raw is a format that is not read")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        number, below, page, several = _find_page(file)
        _check_kind(page, file.pages[0])
        photometric, samples, bits = int(page.photometric), int(page.samplesperpixel), int(page.bitspersample)
        extras = [int(extra) for extra in page.extrasamples][: max(0, samples - COLOURS[photometric])]
        alphas = [k for k, extra in enumerate(extras) if extra in (ASSOCIATED, UNASSOCIATED)]
        alpha = extras[alphas[0]] if alphas else 0
        plain = number == 0 and below < 0 and data[:4] != BIG_ENDIAN_BIGTIFF and _is_plain(page, extras)
        _check_colours(page, alpha, plain)
        _check_parts(page)
        icc = page.tags.get(PROFILE) if photometric != CIELAB else None
        orientation = _orientation(page)
        return TiffPage(
            number=number,
            below=below,
            width=int(page.imagewidth),
            height=int(page.imagelength),
            bits=bits,
            photometric=photometric,
            alpha=alpha,
            alpha_at=COLOURS[photometric] + alphas[0] if alphas else -1,
            orientation=orientation,
            icc=bytes(icc.value) if icc is not None and isinstance(icc.value, bytes) else None,
            several=several,
            stored_bytes=max(1, samples * bits // 8),
            tile=(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (int(page.imagewidth), 1),
            is_plain=plain,
        )


def _unread(what: str) -> ImageError:
    return ImageError("unsupported_mode", f"TIFF {what} is not read")


def _check_kind(page: tifffile.TiffPage, first: tifffile.TiffPage) -> None:
    """ImageError for samples and codings whose meaning is not known here."""
    if DNG_VERSION in first.tags or page.photometric in RAW:
        raise ImageError("unsupported_format", "camera raw is a format that is not read")
    if PHOTOMETRIC not in page.tags:
        raise _unread("that does not say what its samples are (PhotometricInterpretation)")
    photometric, bits = int(page.photometric), page.bitspersample
    if not isinstance(bits, int) or not isinstance(page.sampleformat or 1, int):
        raise _unread("with samples of several kinds")
    sample_format = int(page.sampleformat or 1)
    if sample_format not in (1, VOID) or bits not in (1, 2, 4, 8, 16) or photometric not in COLOURS:
        kind = {2: "signed integer", 3: "floating point"}.get(sample_format, "other")
        raise _unread(f"of {bits}-bit {kind} samples (photometric {photometric})")
    if not COLOURS[photometric] <= page.samplesperpixel <= MOST_SAMPLES:
        raise _unread(f"of {page.samplesperpixel} samples for {COLOURS[photometric]} colours")
    if page.imagedepth > 1:
        raise _unread("of a volume")
    if page.compression != UNCOMPRESSED and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise _unread(f"with compression {int(page.compression)}")


def _check_colours(page: tifffile.TiffPage, alpha: int, plain: bool) -> None:
    """ImageError for colours that neither Pillow nor `read_colours` would turn into the right ones."""
    photometric, bits = page.photometric, page.bitspersample
    ink_set = page.tags.get(INK_SET)
    if photometric == SEPARATED and ink_set is not None and ink_set.value != 1:
        raise _unread("of other inks than CMYK")
    if photometric in (SEPARATED, CIELAB) and alpha == ASSOCIATED:
        raise _unread(f"of {photometric.name} under an alpha that is multiplied in")
    if photometric in (YCBCR, CIELAB) and bits != 8:
        raise _unread(f"of {photometric.name} of {bits} bits")
    sampled = page.compression == UNCOMPRESSED and tuple(page.subsampling or ()) != (1, 1)
    range_ = page.tags.get(REFERENCE_BLACK_WHITE)
    narrow = range_ is not None and tuple(range_.value) != FULL
    if photometric == YCBCR and (sampled or (page.compression != JPEG and (narrow or not plain))):
        raise _unread(f"of {photometric.name} in this coding")
    if photometric == PALETTE and COLOR_MAP not in page.tags:
        raise ImageError("unreadable", "the palette is missing")


def _check_parts(page: tifffile.TiffPage) -> None:
    """ImageError `truncated` where a strip or tile is not there: decoders would leave it black. Of what is stored in
    one piece, old programs wrote any number of bytes."""
    count = math.prod(page.chunked) if page.is_tiled or page.rowsperstrip > 0 else 1
    counts = page.databytecounts[:count]
    told = STRIP_BYTES in page.tags or TILE_BYTES in page.tags
    if len(page.dataoffsets) < count or (told and not page.is_contiguous and (len(counts) < count or not all(counts))):
        raise ImageError("truncated", "a strip or tile of the picture is not there")


def _orientation(page: tifffile.TiffPage) -> int:
    turn = page.tags.get(ORIENTATION)
    value = turn.value if turn is not None else 1
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) and 1 <= first <= 8 else 1


def _is_plain(page: tifffile.TiffPage, extras: list[int]) -> bool:
    """8 bits at most, a codec of long ago, and no alpha or a plain one beside grey or RGB."""
    photometric, bits = page.photometric, page.bitspersample
    few = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    odd = page.sampleformat == VOID or len(page.extrasamples) != len(extras)
    if odd or not (page.is_tiled or page.rowsperstrip > 0):
        return False
    known = int(page.compression) in PILLOW_CODECS and photometric != PALETTE and (bits == 8 or (few and bits < 8))
    if page.samplesperpixel == COLOURS[int(photometric)]:
        return known and not (photometric == CIELAB and page.planarconfig == 2)
    beside = photometric in (BLACK_IS_ZERO, RGB) and bits == 8 and page.planarconfig == 1
    return known and beside and extras in ([UNASSOCIATED], [0])


def _find_page(file: tifffile.TiffFile) -> tuple[int, int, tifffile.TiffPage, bool]:
    """(number, number of the page below it or -1, the page, whether another one at full resolution follows)."""
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
        if _is_full(page):
            full.append((number, page))
        if len(full) == 2:
            break
    if first is None:
        raise ImageError("unreadable", "the file has no page")
    if not full:
        below = [(k, page) for k, page in enumerate(_pages_below(first)) if _is_full(page)]
        return (0, *below[0], len(below) > 1) if below else (0, -1, first, False)
    number, page = full[0]
    return number, -1, page, len(full) > 1


def _is_full(page: tifffile.TiffPage) -> bool:
    kind = page.tags.get(SUBFILE)
    return not (kind is not None and int(kind.value) & (SMALLER | MASK))


def _pages_below(page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    found = page.pages if page.subifds else None
    pages = [found[k] for k in range(min(len(found), PAGES_LOOKED_AT))] if found else []
    return [page for page in pages if isinstance(page, tifffile.TiffPage)]


def read_colours(data: bytes, page: TiffPage) -> tuple[np.ndarray, np.ndarray | None]:
    """(colours HxWxC, alpha HxW or None) of a page, uint8 of up to 8 bits and uint16 of 16, not yet upright. Grey is
    black at 0, a palette is looked up, L*a*b* is RGB. With associated alpha the colours are divided by it no more than
    they are."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        stored = file.pages[page.number]
        if page.below >= 0:
            stored = _pages_below(stored)[page.below]
        parts = list(zip(stored.dataoffsets, stored.databytecounts, strict=True))
        if stored.is_contiguous:
            parts = [(stored.dataoffsets[0], stored.nbytes)]
        if any(size <= 0 or offset + size > len(data) for offset, size in parts):
            raise ImageError("truncated", "the file ends before the picture does")
        samples = stored.asarray(maxworkers=1)
        if samples.ndim == 3 and stored.axes.startswith("S"):
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.height, page.width, -1)
        colormap = getattr(stored, "colormap", None)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8)
    most = 2**page.bits - 1
    alpha = _stretch(samples[..., page.alpha_at], most) if page.alpha else None
    colours = samples[..., : COLOURS[page.photometric]]
    if page.photometric == PALETTE:
        colours = _look_up(np.moveaxis(np.asarray(colormap), 0, -1), colours[..., 0])
        return colours, scale_to_8(alpha[..., None])[..., 0] if alpha is not None else None
    if page.photometric == CIELAB:
        lab = Image.frombytes("LAB", (page.width, page.height), np.ascontiguousarray(colours).tobytes())
        return np.array(profiles.convert_lab(lab)), alpha
    if page.photometric == WHITE_IS_ZERO:
        colours = most - colours
    return np.ascontiguousarray(_stretch(colours, most)), alpha


def _stretch(samples: np.ndarray, most: int) -> np.ndarray:
    """Samples of fewer than 8 bits, up to `most`, at the full range of 8; others as they are."""
    if most >= 255:
        return samples
    return ((samples.astype(np.uint16) * 255 + most // 2) // most).astype(np.uint8)


def _look_up(colormap: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """uint8 HxWx3: the high byte, since of the low one writers make 0 or a copy. A map without a value over 255 is one
    of 8 bits, as old programs wrote it. libtiff takes both so."""
    eight = (colormap >> 8 if colormap.max() > 255 else colormap).astype(np.uint8)
    return np.asarray(eight[indices])
