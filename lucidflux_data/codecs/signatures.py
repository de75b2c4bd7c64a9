"""The format of encoded bytes by their signature, and the parts of a PNG and of a JPEG."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lucidflux_data.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What decides pixels, or is asked for; everything else in a PNG is text, times and hints.
PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf"}
    | {b"acTL", b"fcTL", b"fdAT", b"cICP"}
)
PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
PNG_ABOUT = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})  # where an orientation may stand
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Formats that people have and that no decoder here reads: signature at a position, name.
UNREAD = (
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"DDS ", "DDS"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (0, b"IIRO", "Olympus raw"),
    (0, b"IIRS", "Olympus raw"),
    (0, b"MMOR", "Olympus raw"),
    (0, b"IIU\0", "Panasonic raw"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\0\0\x02\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"gimp xcf", "XCF"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"\x97JB2\r\n\x1a\n", "JBIG2"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"qoif", "QOI"),
    (0, b"farbfeld", "farbfeld"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"\x80\x2a\x5f\xd7", "Cineon"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"\x01\xda", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"P7\n", "PAM"),
    (0, b"PF\n", "PFM"),
    (0, b"Pf\n", "PFM"),
    (0, b"II\x1a\0\0\0HEAPCCDR", "Canon raw"),
    (0, b"FOVb", "Sigma raw"),
    (0, b"\0MRM", "Minolta raw"),
    (0, b"\0\0\0\x0cJXS \r\n\x87\n", "JPEG XS"),
    (0, b"/* XPM */", "XPM"),
    (8, b"ILBM", "ILBM"),
    (0, b"BLP2", "BLP"),
    (0, b"VTF\0", "VTF"),
    (0, b"PVR\x03", "PVR"),
    (0, b"\x13\xab\xa1\x5c", "ASTC"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
OTHER_BRANDS = {b"avci": "HEIF of H.264", b"avcs": "HEIF of H.264", b"vvic": "HEIF of H.266", b"jpeg": "HEIF of JPEG"}


def read_boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of each box of ISO base media, as in JPEG 2000 and JPEG XL files; the last one may be cut.

    ImageError `unreadable` for a box that is shorter than its own header.
    """
    position = 0
    while position + 8 <= len(data):
        size, kind, start = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if size == 1:
            size, start = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        end = position + size if size else len(data)
        if size and size < start:
            raise ImageError("unreadable", "the header is damaged")
        yield bytes(kind), memoryview(data)[position + start : end]
        position = end


def name_unread(data: bytes) -> str | None:
    """The name of a format that is known and not read; None for all others."""
    for position, mark, name in UNREAD:
        if data[position : position + len(mark)] == mark:
            return name
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and b"avif" not in data[8:40]:
        return "HEIC"
    if data[4:8] == b"ftyp" and data[8:11] == b"crx":
        return "Canon raw"
    if data[:3] == b"\xff\xd8\xff" and any(marker == JPEG_LS for marker, *_ in _jpeg_segments(data)):
        return "JPEG-LS"
    if data[4:8] == b"ftyp" and data[8:12] in OTHER_BRANDS:
        return OTHER_BRANDS[data[8:12]]
    head = data[:SVG_HEAD]
    if data[:2] == b"\x1f\x8b":
        with contextlib.suppress(zlib.error):
            head = zlib.decompressobj(31).decompress(data[:SVG_HEAD], SVG_HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "ignore").encode()
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "SVG" if start.startswith(SVG_STARTS) and b"<svg" in head.lower() else None


def begins_as_read(data: bytes) -> bool:
    """Whether the first bytes are those of a format that is read, however damaged what follows is."""
    if data[:2] == b"BM":
        return int.from_bytes(data[14:18], "little") in BMP_HEADERS
    boxes = data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", *HEIF_BRANDS)
    return boxes or data[:4] + data[8:12] == b"RIFFWEBP" or data.startswith(STARTS)


STARTS = (b"\xff\xd8\xff", PNG_SIGNATURE, b"GIF87a", b"GIF89a", *TIFF_SIGNATURES)
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header behind the one of the file
SVG_STARTS = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")
JPEG_LS = 0xF7  # the marker of its frame (ITU-T T.87)
SVG_HEAD = 64 << 10  # bytes in which the element is looked for, behind comments and licences


def _png_spans(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, where its content begins, bytes of it) of each whole chunk of a PNG, up to the end or a cut one."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + size > len(data):
            return
        kind = data[position + 4 : position + 8]
        yield kind, position + 8, size
        position += 12 + size
        if kind == b"IEND":
            return


def still_png(data: bytes) -> bytes:
    """A PNG without what makes it move: the picture that stands in its IDAT chunks."""
    spans = list(_png_spans(data))
    if not any(kind in PNG_ANIMATION for kind, *_ in spans):
        return data
    kept = (data[at - 8 : at + size + 4] for kind, at, size in spans if kind not in PNG_ANIMATION)
    return b"".join([PNG_SIGNATURE, *kept])


def png_behind(data: bytes) -> bytes:
    """A PNG without a picture, with what is said of it behind the picture; b"" where nothing is."""
    first, behind = b"", []
    for kind, at, size in _png_spans(data):
        if kind == b"IHDR":
            first = data[at - 8 : at + size + 4]
        elif kind == b"IDAT":
            behind.append(b"")
        elif kind in PNG_ABOUT and behind:
            behind.append(data[at - 8 : at + size + 4])
    end = b"\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xae\x42\x60\x82"
    return b"".join([PNG_SIGNATURE, first, *behind, end]) if any(behind) else b""


def png_colours(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer function) of ITU-T H.273 that a PNG names (cICP, which goes before any profile)."""
    for kind, at, size in _png_spans(data):
        if kind == b"cICP" and size == 4:
            return data[at], data[at + 1]
        if kind == b"IDAT":
            break
    return None


def bmp_profile(data: bytes) -> bytes | None:
    """The ICC profile inside a BMP (BITMAPV5HEADER, bV5CSType PROFILE_EMBEDDED)."""
    if data[14:18] != b"\x7c\0\0\0" or data[70:74] != b"DEBM":
        return None
    at, size = (int.from_bytes(data[k : k + 4], "little") for k in (126, 130))
    return data[14 + at : 14 + at + size] or None


def webp_frame(data: bytes) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the first frame in the canvas of a WebP that moves. None for a still one."""
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"ANMF":
            left, top, width, height = (
                int.from_bytes(data[at : at + 3], "little") for at in range(position + 8, position + 20, 3)
            )
            return 2 * left, 2 * top, 2 * left + width + 1, 2 * top + height + 1
        if kind in (b"VP8 ", b"VP8L"):
            return None
        position += 8 + size + size % 2
    return None


def heif_colours(data: bytes) -> tuple[int, int] | None:
    """(primaries, transfer function) of ITU-T H.273 that an AVIF or HEIC names for its picture: the `nclx` colour among
    the properties of the primary item (ISO/IEC 23008-12, 9.3). None where it names none."""
    meta = _boxes(dict(read_boxes(data)).get(b"meta", b"")[4:])
    pitm, inside = meta.get(b"pitm", b""), _boxes(meta.get(b"iprp", b""))
    properties = list(read_boxes(inside.get(b"ipco", b"")))
    wide = pitm[:1] not in (b"", b"\0")
    primary = int.from_bytes(pitm[4 : 8 if wide else 6], "big")
    for number in _properties_of(inside.get(b"ipma", b""), primary):
        kind, content = properties[number - 1] if 0 < number <= len(properties) else (b"", memoryview(b""))
        if kind == b"colr" and bytes(content[:4]) == b"nclx":
            return int.from_bytes(content[4:6], "big"), int.from_bytes(content[6:8], "big")
    return None


def _boxes(data: bytes | memoryview) -> dict[bytes, bytes]:
    return {kind: bytes(content) for kind, content in read_boxes(bytes(data))}


def _properties_of(ipma: bytes, item: int) -> list[int]:
    """The numbers, from 1, of the properties of an item (ISO/IEC 23008-12, 9.3.1)."""
    if len(ipma) < 8:
        return []
    of_item, of_property = 4 if ipma[0] else 2, 2 if ipma[3] & 1 else 1
    position = 8
    for _ in range(min(int.from_bytes(ipma[4:8], "big"), len(ipma))):
        found = int.from_bytes(ipma[position : position + of_item], "big")
        position += of_item + 1
        end = position + of_property * (ipma[position - 1] if position <= len(ipma) else 0)
        if found == item:
            numbers = [ipma[at : at + of_property] for at in range(position, end, of_property)]
            return [int.from_bytes(number, "big") & (0x7FFF if of_property == 2 else 0x7F) for number in numbers]
        position = end
    return []


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(type, content, whether its CRC is right) of each chunk of a PNG, up to the end or to the first cut one."""
    for kind, at, size in _png_spans(data):
        crc = int.from_bytes(data[at + size : at + size + 4], "big")
        yield kind, data[at : at + size], zlib.crc32(data[at - 4 : at + size]) == crc


def clean_png(data: bytes) -> bytes:
    """A PNG without text, and without ancillary chunks whose CRC is wrong: what libpng reads of it."""
    parts = [PNG_SIGNATURE]
    for kind, content, right in png_chunks(data):
        critical = kind[:1].isupper()
        if kind in PNG_KEPT and (right or critical):
            crc = zlib.crc32(kind + content) if right else zlib.crc32(kind + content) ^ 1
            parts += [len(content).to_bytes(4, "big"), kind, content, crc.to_bytes(4, "big")]
    return b"".join(parts)


def png_transparency(data: bytes) -> tuple[int, ...] | None:
    """The sample values of the colour that a grey or RGB PNG declares transparent (tRNS, at the depth of the file)."""
    for kind, content, right in png_chunks(data):
        if kind == b"tRNS" and right and len(content) in (2, 6):
            most = 2 ** data[24] - 1  # higher bits do not count (PNG specification 11.3.1)
            return tuple(int.from_bytes(content[k : k + 2], "big") & most for k in range(0, len(content), 2))
        if kind == b"IDAT":
            return None
    return None


class JpegFrame(NamedTuple):
    """`kind`: the last digit of the SOF marker. `refined`: every coefficient of every component came to full depth.
    `end`: where the end marker stands, or another beginning; of a file without one, its length."""

    kind: int
    precision: int
    refined: bool
    end: int


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """The frame header of a JPEG; None where there is none."""
    position, kind, precision = 2, -1, 0
    full: dict[int, set[int]] = {}
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9 or (marker == 0xD8 and kind >= 0):
            break
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + size]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            kind, precision = marker & 15, body[0]
            full = {body[6 + 3 * k]: set() for k in range(body[5]) if 6 + 3 * k < len(body)}
        if marker == 0xDA and body and len(body) >= 2 * body[0] + 4:
            first, last, approximation = body[2 * body[0] + 1 : 2 * body[0] + 4]
            for k in range(body[0]):
                if approximation & 15 == 0:
                    full.setdefault(body[1 + 2 * k], set()).update(range(first, min(last, 63) + 1))
        position += 2 + max(size, 2)
    if kind < 0:
        return None
    end = position if data[position : position + 2] in (b"\xff\xd8", b"\xff\xd9") else len(data)
    return JpegFrame(kind, precision, bool(full) and all(len(done) == 64 for done in full.values()), end)


JPEG_TAIL = 64 << 10  # bytes in which the end marker is looked for first


def has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker of a JPEG follows its first scan; that of a small picture inside EXIF does not count."""
    position = 2
    for _, start, size in _jpeg_segments(data):
        position = start + size
    return data.rfind(b"\xff\xd9", max(position, len(data) - JPEG_TAIL)) >= 0 or data.find(b"\xff\xd9", position) >= 0


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, where its content begins, bytes of it) of the segments of a JPEG before its first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:
            position += 1
            continue
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        yield data[position + 1], position + 4, size - 2
        position += 2 + size


JPEG_CODINGS = {3: "lossless", 5: "hierarchical", 6: "hierarchical", 7: "lossless", 11: "lossless", 13: "hierarchical"}


def name_unread_coding(data: bytes) -> str | None:
    """`lossless JPEG of 16 bits`: a JPEG or PNG in a coding or a depth that is not read; None for all else."""
    if data[:8] == PNG_SIGNATURE and data[12:16] == b"CgBI":
        return "PNG as iOS packs it (CgBI)"
    if data[:3] != b"\xff\xd8\xff":
        return None
    for marker, at, size in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size >= 6 and at + 6 <= len(data):
            kind, bits, components = marker & 15, data[at], data[at + 5]
            if data[at + 1 : at + 3] == b"\0\0":
                return "JPEG that tells its height behind the picture (DNL)"
            if kind in JPEG_CODINGS or bits != 8:
                coding = f"{JPEG_CODINGS[kind]} " if kind in JPEG_CODINGS else ""
                return f"{coding}JPEG of {bits} bits"
            return None if components in (1, 3, 4) else f"JPEG of {components} components"
    return None


def ends_early(data: bytes) -> bool:
    """Whether a file whose header could not be parsed announces more bytes than there are."""
    if data[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in data[-64:]
    if data[:8] == PNG_SIGNATURE:
        return b"IEND" not in data[-64:]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp" and (b"avif" in data[8:40] or data[8:12] in HEIF_BRANDS):
        position = 0
        while position + 8 <= len(data):  # ISO base media boxes: 32-bit size, then type
            position += int.from_bytes(data[position : position + 4], "big") or len(data)
        return position != len(data)
    return False
