"""One pair: the HQ cut out of a clean image, the LQ made of the stored HQ, the record that replays it.

    clean image --cut (crop, flip, sharpening)--> HQ --encode--> stored HQ --decode, degrade by the plan--> LQ

A sample `{key}_{vv}` has three members: `hq.<ext>`, `lq.png` and `json`; with `hq=ref` the HQ stays where it is and the
json says where. LQ = degrade(decode(stored HQ), plan), so a pair replays from itself, whatever the HQ's format is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import cv2
import numpy as np

from lucidflux_data.codecs.encoding import encode, encode_jpeg_xl, encode_png_by_libdeflate
from lucidflux_data.codecs.version import decoder_versions
from lucidflux_data.degradation import backends
from lucidflux_data.degradation.backends import Degrade
from lucidflux_data.degradation.config import CropConfig, DegradeConfig
from lucidflux_data.degradation.convolution import usm
from lucidflux_data.degradation.plan import Plan, check_plan, draw_plan
from lucidflux_data.errors import InputError
from lucidflux_data.images import EXTENSION_OF, FLAGS_OTHER_PIXELS, Decoded, decode, luma
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.measures.blur_and_flat import measure_luma
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.storage.formats import canonical_json, parse_json
from lucidflux_data.tiles import crops

# Huffman coding alone: of a noisy 256x256 image both smaller and faster than with string matching.
LQ_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
HQ_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 2]
HQ_WEBP = [cv2.IMWRITE_WEBP_QUALITY, 101]  # over 100: lossless
JPEG_444 = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


@dataclass(frozen=True)
class Pair:
    """`members`: the tar members of the sample by extension. `hq`, `lq`: their pixels, uint8 HxWx3 RGB."""

    key: str
    members: dict[str, bytes]
    hq: np.ndarray
    lq: np.ndarray


class Cut(TypedDict):
    """How an HQ was cut. `box`: left, top, width, height in pixels of the source; `source`: its width and height;
    `tries`: crops that were drawn; `passed`: whether the last one meets the blur and flat rules."""

    box: list[int]
    source: list[int]
    tries: int
    passed: bool


class Pointer(TypedDict):
    """Where a clean image lies. `source`: position among the sources, -1: `path` is a whole url; `offset`: of its bytes
    in a tar, -1 outside tars; `size`: bytes; `crc32`: of them."""

    source: int
    path: str
    offset: int
    size: int
    crc32: int


class StoredHq(TypedDict):
    """`format`: original (the very bytes of the clean image), ref (a pointer: `ref`), or what it was encoded as."""

    format: str
    ref: NotRequired[Pointer]


class PairRecord(TypedDict):
    """The json member of a pair: all that it takes to replay it. `source_key`, `group`, `carried`: what is known of the
    clean image; `versions`: backends.versions."""

    key: str
    hq: StoredHq
    cut: Cut
    versions: dict[str, str]
    plan: Plan
    source_key: NotRequired[str]
    group: NotRequired[str]
    carried: NotRequired[dict[str, object]]
    good_tiles: NotRequired[list[list[int]]]  # of the clean image, in which the crop lies


class CleanImage(TypedDict):
    """What a pair's json tells of its clean image. `carried`: a JSON object; `good_tiles`: JSON, see
    read_tiles; `ref`: needed where HQ are pointers."""

    key: str
    versions: dict[str, str]
    source_key: NotRequired[str | None]
    group: NotRequired[str | None]
    carried: NotRequired[str | None]
    good_tiles: NotRequired[str | None]
    ref: NotRequired[Pointer]


def versions(backend: str, device: str = "cpu") -> dict[str, str]:
    """What decides the bytes of a pair, beside its plan: the backend with its libraries, and the decoders."""
    found = backends.versions(backend, device)
    return found | {name: value for name, value in decoder_versions().items() if name not in found}


def read_tiles(text: str | None) -> list[list[int]] | None:
    """The good tiles of an image (left, top, width, height in pixels each), as a ledger has them; None: all of it."""
    found: list[list[int]] | None = json.loads(text) if text is not None else None
    return found


def check_tiles(text: object, where: str) -> str:
    """What a json beside an image says of its good tiles, if it is that. InputError else: crops would lie anywhere."""
    try:
        boxes = parse_json(text) if isinstance(text, str) else None
    except ValueError:
        boxes = None
    whole = isinstance(boxes, list) and all(
        isinstance(box, list) and len(box) == 4 and all(type(number) is int and number >= 0 for number in box)
        for box in boxes
    )
    if not whole or not isinstance(text, str):
        raise InputError(f"what stands beside {where} as good_tiles are no tiles: left, top, width, height of each")
    return text


def has_crop(width: int, height: int, tiles: str | None, config: DegradeConfig) -> bool:
    """Whether a crop of an image of these sides, which is not too small, lies in its good tiles."""
    boxes = read_tiles(tiles)
    if boxes is None:
        return True
    wide, high = max(width, config.size), max(height, config.size)
    return crops.has_window(wide, high, config.size, _reaching(boxes, (width, height), (wide, high)))


def too_small(width: int, height: int, config: DegradeConfig) -> bool:
    """Whether an image of these sides cannot give a crop under this config."""
    return min(width, height) < config.size and config.crop.too_small == "reject"


def cut(
    pixels: np.ndarray, plan: Plan, crop: CropConfig, tiles: Sequence[crops.Box] | None = None
) -> tuple[np.ndarray, Cut]:
    """The HQ of a plan, uint8 size x size x 3, and how it was cut: box in source pixels, tries, whether it passed.

    A crop that fails the blur or flat rule is drawn again as often as the plan has draws; the last one stands.
    Smaller images are reflected to the right and downwards first (without the edge, as Real-ESRGAN does). `tiles`:
    left, top, width, height of those that a crop may lie in; None: anywhere.
    """
    size = plan["size"]
    height, width = pixels.shape[:2]
    pixels = _padded(pixels, size)
    if tiles is not None:
        tiles = _reaching(tiles, (width, height), (pixels.shape[1], pixels.shape[0]))
    tries = 0
    for draw in plan["crop"]["draws"]:
        tries += 1
        left, top, side = _window(pixels.shape[1], pixels.shape[0], size, plan["crop"]["mode"], draw, tiles)
        hq = pixels[top : top + side, left : left + side]
        if side != size:
            hq = cv2.resize(hq, (size, size), interpolation=cv2.INTER_AREA)
        measures = measure_luma(luma(np.ascontiguousarray(hq)))
        sharp = crop.min_laplacian_variance <= measures.laplacian_variance <= crop.max_laplacian_variance
        passed = sharp and measures.flat_fraction <= crop.max_flat_fraction
        if passed or min(pixels.shape[:2]) == max(pixels.shape[:2]) == size:
            break
    record: Cut = {"box": [left, top, side, side], "source": [width, height], "tries": tries, "passed": passed}
    if plan["flip"]:
        hq = hq[:, ::-1]
    return sharpen(np.ascontiguousarray(hq), plan), record


def sharpen(hq: np.ndarray, plan: Plan) -> np.ndarray:
    """The HQ (uint8 HxWx3 RGB) as it is stored and degraded: sharpened where the plan says `target`."""
    return np.clip(np.rint(usm(hq)), 0, 255).astype(np.uint8) if plan["sharpen_hq"] == "target" else hq


def _padded(pixels: np.ndarray, size: int) -> np.ndarray:
    down, right = max(0, size - pixels.shape[0]), max(0, size - pixels.shape[1])
    if not down and not right:
        return pixels
    padded: np.ndarray = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REFLECT_101)
    return padded


def _reaching(tiles: Sequence[crops.Box], size: tuple[int, int], padded: tuple[int, int]) -> list[crops.Box]:
    """Tiles at the right and lower edge of an image go as far as it does once it is reflected."""
    found: list[crops.Box] = []
    for left, top, width, height in tiles:
        ends = [
            whole if end == edge else end
            for end, edge, whole in zip((left + width, top + height), size, padded, strict=True)
        ]
        found.append((left, top, ends[0] - left, ends[1] - top))
    return found


def _window(
    width: int, height: int, size: int, mode: str, draw: list[float], tiles: Sequence[crops.Box] | None
) -> tuple[int, int, int]:
    """With tiles, a crop that is to cover more than they let has the least side; InputError where that has no place."""
    cover, down, across = draw
    short = min(width, height)
    side = size if mode == "native" else min(short, max(size, round(cover * short)))
    if tiles is not None:
        for possible in (side, size):
            place = crops.draw_window(width, height, possible, tiles, across, down)
            if place is not None:
                return place[0], place[1], possible
        raise InputError(f"no crop of {size} px lies in the good tiles of an image of {width}x{height} px")
    return int(across * (width - side + 1)), int(down * (height - side + 1)), side


def make_pair(
    data: bytes, image: Decoded, row: CleanImage, variant: int, config: PairsConfig, degrade: Degrade
) -> Pair:
    """One variant of a clean image."""
    plan, hq = draw_plan(row["key"], variant, config.degrade), config.hq
    tiles = read_tiles(row.get("good_tiles"))
    pixels, how = cut(image.pixels, plan, config.degrade.crop, tiles)
    members: dict[str, bytes] = {}
    if hq == "ref":
        stored: StoredHq = {"format": "ref", "ref": row["ref"]}
    elif _is_untouched(pixels, image, plan, how):
        members[f"hq.{EXTENSION_OF[image.header.format]}"] = data
        stored = {"format": "original"}
    else:
        extension, encoded = encode_hq(pixels, hq, config.hq_encoder)
        members[f"hq.{extension}"] = encoded
        stored = {"format": hq}
        if extension == "jpg":
            pixels = decode(encoded)
    lq = degrade(pixels, plan)
    members["lq.png"] = encode_lq(lq)
    key = f"{row['key']}_{variant:02d}"
    record: PairRecord = {"key": key, "hq": stored, "cut": how, "versions": row["versions"], "plan": plan}
    if tiles is not None:
        record["good_tiles"] = tiles
    members["json"] = canonical_json({**record, **_known_of(row)})
    return Pair(key, members, pixels, lq)


def _known_of(row: CleanImage) -> dict[str, object]:
    """What a record has of its clean image beside the pair: what is not known is left out."""
    known: dict[str, object] = {"source_key": row.get("source_key"), "group": row.get("group")}
    carried = row.get("carried")
    known["carried"] = json.loads(carried) if carried else None
    return {name: value for name, value in known.items() if value is not None}


def _is_untouched(pixels: np.ndarray, image: Decoded, plan: Plan, how: Cut) -> bool:
    """Whether the HQ is the whole image as it came, in bytes that any reader decodes to the same three channels."""
    whole = how["source"] == [plan["size"], plan["size"]] and not plan["flip"] and plan["sharpen_hq"] != "target"
    plain = image.header.mode == "RGB" and FLAGS_OTHER_PIXELS.isdisjoint(image.flags)
    return whole and plain and image.header.format in ("png", "jpeg", "webp")


def encode_hq(pixels: np.ndarray, how: str, png_encoder: str = "opencv") -> tuple[str, bytes]:
    """(extension, bytes) of uint8 RGB as png, jxl or webp (all lossless), or jpeg:Q (4:4:4). `png_encoder`: as
    PairsConfig.hq_encoder."""
    kind, _, quality = how.partition(":")
    if kind == "jxl":
        return kind, encode_jpeg_xl(pixels)
    if kind == "png" and png_encoder == "libdeflate":
        return kind, encode_png_by_libdeflate(pixels)
    options = {"png": HQ_PNG, "webp": HQ_WEBP, "jpeg": [cv2.IMWRITE_JPEG_QUALITY, int(quality or 0), *JPEG_444]}[kind]
    return EXTENSION_OF[kind], encode(pixels, kind, options)


def encode_lq(pixels: np.ndarray) -> bytes:
    return encode(pixels, "png", LQ_PNG)


def hq_pixels(record: PairRecord, data: bytes, crop: CropConfig) -> np.ndarray:
    """The HQ of a stored pair: `data` is its hq member or, for `ref`, the bytes of the whole clean image."""
    if record["hq"]["format"] != "ref":
        return pixels_apart(data)
    return cut(pixels_apart(data), record["plan"], crop, record.get("good_tiles"))[0]


def replay(record: PairRecord, hq: np.ndarray, degrade: Degrade) -> bytes:
    """The bytes of lq.png, made again. InputError for a plan of a newer version."""
    check_plan(record["plan"])
    return encode_lq(degrade(hq, record["plan"]))


def check_pair(record: PairRecord, hq: np.ndarray, lq: np.ndarray, config: DegradeConfig) -> list[str]:
    """What is wrong with a decoded pair: sizes, and whether the config gives the very plan that is stored."""
    try:
        check_plan(record["plan"])
    except InputError as error:
        return [f"{record['key']}: {error}"]
    problems = []
    plan = record["plan"]
    for name, pixels, side in (("hq", hq, config.size), ("lq", lq, config.size // config.scale)):
        if pixels.shape[:2] != (side, side):
            problems.append(f"{record['key']}: its {name} is {pixels.shape[1]}x{pixels.shape[0]}, not {side}x{side}")
    if plan != draw_plan(plan["hq_key"], plan["variant"], config):
        problems.append(f"{record['key']}: its plan is not the one that run.json gives")
    if record["key"] != f"{plan['hq_key']}_{plan['variant']:02d}":
        problems.append(f"{record['key']}: its plan is of another pair")
    return problems
