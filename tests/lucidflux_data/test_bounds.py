"""What is read and decoded has limits of size, memory and time; whatever passes one costs one image."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from lucidflux_data import isolation
from lucidflux_data.codecs.header import Header
from lucidflux_data.codecs.memory import estimate_memory
from lucidflux_data.codecs.tiff import MOST_SAMPLES, read_page
from lucidflux_data.decode_config import DEFAULT_MAX_FILE_BYTES, DEFAULT_MAX_MEMORY_BYTES, DecodeConfig
from lucidflux_data.errors import ImageError, InputError
from lucidflux_data.images import decode, decode_full, probe
from lucidflux_data.isolation import Apart, decode_apart, pixels_apart
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import read_bytes, read_file
from lucidflux_data.storage.folder import Folder
from tests.support.bombs import many_pages, many_scans
from tests.support.odd_sources import jpeg, tar_bytes, write
from tests.support.paths import ROOT
from tests.test_safe_code import SOURCES, name_of

SIDE = 1200  # pixels of the pictures whose memory is measured
KINDS = {"jpeg": "JPEG", "progressive": "JPEG", "png": "PNG", "alpha": "PNG", "palette": "GIF", "webp": "WEBP"}


def encoded(kind: str) -> bytes:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    samples = np.stack([(rows * (k + 2) + columns * 3) % 251 for k in range(4)], -1).astype(np.uint8)
    if kind == "png16":
        return cv2.imencode(".png", samples.astype(np.uint16) * 257)[1].tobytes()
    file = io.BytesIO()
    if kind == "tiff16":
        options = {"photometric": "rgb", "extrasamples": ["assocalpha"], "metadata": None}
        tifffile.imwrite(file, samples.astype(np.uint16) * 257, **options)
        return file.getvalue()
    image = Image.fromarray(samples[..., :3]) if kind != "alpha" else Image.fromarray(samples, "RGBA")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(file, KINDS[kind], exif=turned.tobytes(), progressive=kind == "progressive", subsampling=0)
    return file.getvalue()


PEAK = """
import sys
from lucidflux_data.images import decode_full
def figure(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
data = sys.stdin.buffer.read()
decode_full(open(sys.argv[1], "rb").read())
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = figure("VmRSS")
decode_full(data)
print(figure("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the kernel tells no peaks here")
@pytest.mark.parametrize("kind", [*KINDS, "png16", "tiff16"])
def test_the_estimate_is_over_what_decoding_takes(kind: str, tmp_path: Path) -> None:
    data = encoded(kind)
    small = write(tmp_path / "small", jpeg(1))
    told = subprocess.run([sys.executable, "-c", PEAK, small], input=data, capture_output=True, check=True, timeout=120)
    with pytest.raises(ImageError, match="out_of_memory: decoding it would take") as caught:
        decode_full(data, max_memory_bytes=1)
    estimate = int(caught.value.detail.split(" would take ")[1].split(" bytes")[0].replace(",", ""))
    assert int(told.stdout) < estimate
    assert decode_full(data, max_memory_bytes=estimate).pixels.shape == (SIDE, SIDE, 3)


def test_the_default_budget_takes_whatever_the_pixel_budget_takes() -> None:
    small = io.BytesIO()
    tifffile.imwrite(small, np.zeros((4, 4, MOST_SAMPLES), np.uint16), photometric="rgb", planarconfig="contig")
    page = replace(read_page(small.getvalue()), width=13_000, height=13_692)
    assert page.stored_bytes == 2 * MOST_SAMPLES
    estimate = estimate_memory(Header("tiff", 13_000, 13_692, "RGBA;16", 1, False, True, None, page), False)
    assert page.width * page.height > 0.999 * DecodeConfig().max_pixels
    assert estimate <= DEFAULT_MAX_MEMORY_BYTES


def test_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as file:
        file.truncate(40 << 30)
    for read in (read_file, lambda path: read_bytes(f"file://{path}")):
        with pytest.raises(ImageError, match="too_many_bytes: 42,949,672,960 bytes are more than"):
            read(path)
    tar = write(tmp_path / "t.tar", tar_bytes([("a.jpg", jpeg(1))]))
    with open(tar, "r+b") as file:  # a member that is as large as it says
        header = bytearray(file.read(512))
        header[124:136] = (40 << 30).to_bytes(12, "big")
        header[124] |= 0x80
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        file.seek(0)
        file.write(header)
        file.truncate(512 + (40 << 30) + 1024)
    (row,) = list_sources([str(tar)]).table.to_pylist()
    with pytest.raises(ImageError, match="too_many_bytes"):
        read_bytes(row["uri"], row["offset"], row["size"])


def test_limits_of_size_hold_in_tables_and_stores(tmp_path: Path) -> None:
    data = jpeg(1)
    pq.write_table(pa.table({"image": [data]}), tmp_path / "t.parquet")
    store = Folder("memory://bounds")
    store.publish("a.jpg", data)
    for uri in (f"file://{tmp_path}/t.parquet#0", "memory://bounds/a.jpg"):
        assert read_bytes(uri, most=len(data)) == data
        with pytest.raises(ImageError, match="too_many_bytes"):
            read_bytes(uri, most=len(data) - 1)
    with pytest.raises(ImageError, match="too_many_bytes"):  # by the listing, before the store is asked
        read_bytes("memory://bounds/not-there.jpg", size=DEFAULT_MAX_FILE_BYTES + 1)


def test_a_pipe_in_a_run_folder_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(InputError, match="no regular file"):
        Folder(tmp_path).read("run.json")
    with pytest.raises(ImageError, match="no regular file"):
        read_file(tmp_path / "run.json")


@pytest.mark.parametrize("place", ["beside", "tar", "jsonl"])
def test_json_that_is_too_deep_or_too_large_is_no_side_data(place: str, tmp_path: Path) -> None:
    deep, near, large = b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200, b'{"a": "%s"}'
    sides = [deep, near, large % (b"x" * (1 << 20)), b'{"good": 1}']
    folder = tmp_path / "00000"
    names = [f"{k:09d}" for k in range(len(sides))]
    members = [(f"{name}.{ext}", content) for name, side in zip(names, sides, strict=True)
               for ext, content in (("jpg", jpeg(int(name))), ("json", side))]  # fmt: skip
    if place == "tar":
        write(folder / "s.tar", tar_bytes(members))
    elif place == "beside":
        for name, content in members:
            write(folder / name, content)
        pq.write_table(pa.table({"key": ["none"], "url": ["x"]}), tmp_path / "00000.parquet")
    else:
        for name, content in members[::2]:
            write(folder / name, content)
        lines = [b'{"file_name": "%s.jpg", "x": %s}' % (names[k].encode(), sides[k]) for k in (1, 3)]
        write(folder / "metadata.jsonl", b"\n".join(lines))
    found = {row["source_key"][-13:]: row["side"] for row in list_sources([str(folder)]).table.to_pylist()}
    assert [found[f"{name}.jpg"] for name in names[:3]] == [None, None, None]
    assert "good" in json.dumps(json.loads(found[f"{names[3]}.jpg"]))


def test_pages_are_not_counted() -> None:
    data = many_pages(200_000)
    header = probe(data)
    assert (header.width, header.height, header.animated) == (64, 64, True)
    assert decode(data).shape == (64, 64, 3)


@pytest.fixture
def limits() -> Iterator[DecodeConfig]:
    yield DecodeConfig(timeout_s=1.0)
    isolation._close()


def test_a_decoder_that_does_not_end_costs_one_image(limits: DecodeConfig) -> None:
    good = jpeg(1)
    with pytest.raises(ImageError, match="decode_timeout: decoding took longer than 1 s"):
        decode_apart(many_scans(4000), limits)
    assert np.array_equal(pixels_apart(good, limits), decode(good))


def test_what_hung_is_not_tried_again_with_as_little_time() -> None:
    """A reader meets an image in each epoch. Two seconds for what sleeps a second and a half are another trial."""
    apart, short = Apart("tests.support.bombs:misbehave"), DecodeConfig(timeout_s=0.5)
    for _ in range(2):
        with pytest.raises(ImageError, match="decode_timeout"):
            apart.call(b"sleep", short)
        assert apart._child is None, "the second time none was started"
    assert apart.call(b"good", short) == "good"
    assert apart.call(b"sleep", DecodeConfig(timeout_s=30)) == "sleep"
    apart.close()


def test_what_decodes_apart_is_what_decodes_here() -> None:
    for kind in ("progressive", "alpha", "tiff16"):
        here, apart = decode_full(encoded(kind)), decode_apart(encoded(kind))
        assert np.array_equal(here.pixels, apart.pixels)
        assert (here.header, here.flags) == (apart.header, apart.flags)


def test_a_crash_and_a_lack_of_memory_cost_one_image() -> None:
    apart = Apart("tests.support.bombs:misbehave")
    for how, why in ((b"crash", "unreadable: the decoder crashed"), (b"grow", "out_of_memory"), (b"good", "")):
        if why:
            with pytest.raises(ImageError, match=why):
                apart.call(how, DecodeConfig(max_memory_bytes=64 << 20))
        else:
            assert apart.call(how, DecodeConfig()) == "good"
    apart.close()


def test_an_interrupt_is_left_to_the_parent() -> None:
    decode_apart(jpeg(1))
    child = next(each._child for each in isolation._own[1].values() if each._child is not None)
    assert os.getpgid(child.pid) == child.pid


DECODES_HERE = {
    "lucidflux_data/images.py": "the decoder, which a child runs",
    "lucidflux_data/isolation.py": "what the child runs",
    "lucidflux_data/codecs/opening.py": "part of the decoder",
    "lucidflux_data/measures/artifacts.py": "the header of a JPEG that was decoded",
    "lucidflux_data/measures/blur_and_flat.py": "in a worker of the filter, which is a child with a time limit",
    "lucidflux_data/shards/strip_jpeg.py": "the header, of bytes that were decoded",
    "lucidflux_data/shards/strip_png.py": "the header, of bytes that were decoded",
    "lucidflux_data/shards/strip_webp.py": "the header, of bytes that were decoded",
    "lucidflux_data/in_memory.py": "what the caller holds in memory",
    "lucidflux_data/pairs/pair.py": "what was encoded just now",
    "lucidflux_data/degradation/opencv.py": "what was encoded just now",
    "lucidflux_data/iqa/checks.py": "what was encoded just now",
    "lucidflux_model/samples/cached.py": "what `cache` encoded",
    "lucidflux_model/training/progress/report.py": "strips that the training wrote",
    "pipelines/filter/score.py": "bytes that were decoded and are the same",
    "pipelines/filter/rows.py": "bytes that were decoded and are the same",
    "pipelines/filter/pack.py": "bytes that were decoded and are the same",
    "benchmarks/metrics/outside_files/deqa_score.py": "in a program of its own, in an environment that the user made",
    "pipelines/demo/data.py": "the photos of the package",
    "pipelines/demo/bench.py": "images that were made here",
}
DECODERS = {"decode", "probe", "imread", "imdecode", "imdecodemulti", "Image.open", "cv2.imread", "cv2.imdecode"}


def test_pictures_are_decoded_by_a_child_but_where_it_is_said() -> None:
    """With its limits of time and memory: in every job, `bench` and `restore` among them."""
    found = set()
    for path in SOURCES:
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(name_of(node.func) in DECODERS for node in calls):
            found.add(str(path.relative_to(ROOT)))
    assert {name for name in found if not name.startswith("benchmarks/throughput/")} == DECODES_HERE.keys()
