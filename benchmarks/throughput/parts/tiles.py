"""What tiles cost beside measures of whole images: `tiles`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import cv2
import typer

from benchmarks.throughput.timing import Facts, Images, OutFile, core_seconds, paired_ratio, pin, print_json
from lucidflux_data.errors import ImageError
from lucidflux_data.images import decode, luma
from lucidflux_data.measures.artifacts import blockiness, spectral_cutoff
from lucidflux_data.measures.blur_and_flat import measure_luma
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.tiles.measure import measure_tiles

app = typer.Typer()


@app.command("tiles")
def tiles_command(
    images: Images,
    side: Annotated[int, typer.Option(help="Of a tile, in pixels.")] = 512,
    megapixels: Annotated[float, typer.Option(help="Photos are enlarged to so many, as JPEG of quality 92.")] = 6.0,
    most: Annotated[int, typer.Option(help="Photos.")] = 12,
    repeats: Annotated[int, typer.Option(help="Of each photo.")] = 3,
    out: OutFile = None,
) -> None:
    """Processor time a megapixel and paired ratios, interleaved: the measures of a whole image (blur, flat regions,
    blocking, spectral cut-off; decode included) beside those of its tiles."""
    pin()
    ways = {"whole": whole, "tiles": lambda data: tiled(data, side), "whole, blur and flat alone": plain}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for data, size in read_photos(images, megapixels, most):
        for way in ways.values():
            way(data)
        for _ in range(repeats):
            for name, way in ways.items():
                found[name].append(core_seconds(lambda way=way, data=data: way(data)) / size)  # type: ignore[misc]
    result: Facts = {"photos": len(found["whole"]) // repeats, "side": side, "megapixels": megapixels}
    result["ms_a_megapixel"] = {name: round(1e3 * statistics.median(times), 2) for name, times in found.items()}
    result["ratio_tiles_to_whole"] = paired_ratio(found["tiles"], found["whole"])
    result["ratio_tiles_to_blur_and_flat"] = paired_ratio(found["tiles"], found["whole, blur and flat alone"])
    print_json(result, out)


def whole(data: bytes) -> None:
    """The four measures of an image."""
    grey = luma(decode(data))
    measure_luma(grey)
    blockiness(grey)
    spectral_cutoff(grey)


def plain(data: bytes) -> None:
    """What `score` measures without tiles."""
    measure_luma(luma(decode(data)))


def tiled(data: bytes, side: int) -> None:
    """What `score --tiles` measures: blur and flat regions of the whole, and the four of each tile."""
    grey = luma(decode(data))
    measure_luma(grey)
    measure_tiles(grey, MeasureConfig(tiles=side))


def read_photos(folder: Path, megapixels: float, most: int) -> list[tuple[bytes, float]]:
    """(JPEG, megapixels) of photos of 512 px and more, enlarged."""
    found: list[tuple[bytes, float]] = []
    for row in list_sources([str(folder)]).table.to_pylist():
        try:
            pixels = decode(read_bytes(row["uri"], row["offset"], row["size"]))
        except ImageError:
            continue
        if min(pixels.shape[:2]) < 400 or len(found) == most:
            continue
        factor = (megapixels * 1e6 / (pixels.shape[0] * pixels.shape[1])) ** 0.5
        large = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        data = cv2.imencode(".jpg", large[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        found.append((data, large.shape[0] * large.shape[1] / 1e6))
    return found
