"""`lucidflux demo`: filter and pairs on real photos, and on damaged versions of them, from what is installed alone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np
from PIL import Image

from lucidflux_data.codecs.encoding import encode
from lucidflux_data.images import decode
from lucidflux_data.sources.bundled import bundled_photos
from pipelines.filter import repair

if TYPE_CHECKING:
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.executor import Executor
    from pipelines.execution.progress import Progress

PAIR_SIZE = 256  # most of the photos are 512 pixels wide


def make_candidates(folder: Path) -> Path:
    """Copies the photos into `folder` and plants one image for each reason that the installed rules can give."""
    from lucidflux_data.storage.folder import Folder

    if folder.exists():
        shutil.rmtree(folder)
    place, by_name = Folder(folder), {photo.stem: photo for photo in bundled_photos()}
    for photo in by_name.values():
        place.publish(photo.name, photo.read_bytes())
    for name, data in _plant(by_name).items():
        place.publish(name, data)
    (folder / "planted-missing.jpg").symlink_to(folder / "is-not-there.jpg")
    place.sweep()
    return folder


def _plant(by_name: dict[str, Path]) -> dict[str, bytes]:
    """Name -> content. `by_name`: scikit-image's photos."""
    astronaut = decode(by_name["astronaut"].read_bytes())
    encoded = encode(astronaut, "jpeg")
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    flat = np.full((720, 720, 3), 128, np.uint8)
    flat[:, :240] = noise[:1, :1] // 4 + np.resize(noise, (720, 240, 3)) // 4  # three patches of nine have detail
    damaged = bytearray(by_name["coffee"].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    floats = io.BytesIO()
    Image.fromarray(astronaut[..., 2].astype(np.float32)).save(floats, "TIFF")
    return {
        "planted-too_blurry.png": encode(cv2.GaussianBlur(astronaut, (0, 0), 6)),
        "planted-too_sharp.png": encode(noise[..., ::-1]),
        "planted-too_flat.png": encode(flat[..., ::-1]),
        "planted-too_small.png": encode(cv2.resize(astronaut, (60, 60), interpolation=cv2.INTER_AREA)),
        "planted-iqa_not_finite.png": encode(cv2.resize(astronaut, (80, 80), interpolation=cv2.INTER_AREA)),
        "planted-duplicate.png": by_name["astronaut"].read_bytes(),
        "planted-unreadable.png": bytes(damaged),
        "planted-truncated.jpg": encoded[: len(encoded) // 2],
        "planted-not_an_image.jpg": b"A text file that calls itself a photo.\n",
        "planted-unsupported_mode.tif": floats.getvalue(),
        "planted-too_many_pixels.png": png_of_zeros(60000, 60000),
        "notes.txt": b"Counted as ignored.\n",
    }


def png_of_zeros(width: int, height: int) -> bytes:
    """A valid 1-bit grey PNG of any size, compressed row by row: 60000x60000 takes some 440 kB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    body = b"".join(compressor.compress(row * 1000) for _ in range(height // 1000))
    body += compressor.compress(row * (height % 1000)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def run_demo(out: Path, num_cpus: int | None, executor: str, full: bool) -> dict[str, object]:
    """Filters the planted candidates into `out`/run, makes pairs of what is kept in `out`/pairs, verifies both deeply.

    Then ranks four methods on the suite offline-photos. `full` ranks Real-ESRGAN, too, and trains the tiny model on the
    pairs, whose result restores one image, a plumbing check: it needs torch and the extra `realesrgan`. Returns the
    summary of the run, the pairs, the ranking and, where it was made, the training.
    """
    from lucidflux_data.errors import needs_extra
    from lucidflux_data.selection.config import make_config
    from lucidflux_data.storage.folder import Folder, absolute_url
    from pipelines.bench import realesrgan
    from pipelines.demo.bench import run_bench_demo
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress
    from pipelines.filter import job

    if full:
        with needs_extra(realesrgan.NAME):
            realesrgan.check_installed()
    candidates = make_candidates(out / "photos")
    config = make_config("demo", settings=["rules.min_side=64", "decode.max_pixels=100000000"])
    folder, progress = Folder(out / "run"), Progress()
    url = [absolute_url(str(candidates))]
    job.list_into(folder, url, config, "demo", None, ("score", "select", "pack"), progress)
    with open_executor(executor, num_cpus, 0, None) as started:
        progress.say(started.description)
        job.score(folder, config, started, progress)
        job.select(folder, config, started, progress)
        job.pack(folder, config, started, progress)
        verified = repair.verify_run(folder, True, False, started, progress)
        pairs = make_pairs(folder, out / "pairs", started, progress)
        ranked = run_bench_demo(out / "bench", started, progress, (realesrgan.NAME,) if full else ())
    kept = job.summary(folder) | {"verified": verified["samples"], "report": folder.path("report.html")}
    made = {**kept, **{f"pairs_{name}": value for name, value in pairs.items()}, **ranked}
    if full:
        from pipelines.demo.train import run_train_demo

        made |= run_train_demo(Folder(out / "pairs"), out / "model", progress)
    return made


class DemoPairs(TypedDict):
    folder: str
    rejected: dict[str, int]  # by reason
    samples: int
    verified: int  # samples that were checked deeply
    view: str  # the page


def make_pairs(run: Folder, out: Path, executor: Executor, progress: Progress) -> DemoPairs:
    """Four variants of every kept photo at the size that these photos have, checked deeply, with a page to look at."""
    from lucidflux_data.pairs import job as pairs_run
    from lucidflux_data.pairs.config import make_pairs_config, pairs_label
    from lucidflux_data.pairs.view import make_view
    from lucidflux_data.storage.folder import Folder
    from pipelines.synthesis.job import synthesize
    from pipelines.synthesis.verify import verify_pairs

    config = make_pairs_config("realesrgan-x4", settings=[f"degrade.size={PAIR_SIZE}"])
    about = pairs_run.make_run(config, pairs_label("realesrgan-x4", config), "cv2", [run.url], None)
    folder = Folder(out)
    pairs_run.start(folder, about)
    summary = synthesize(folder, about, executor, progress)
    verified = verify_pairs(folder, True, False, executor, progress)
    folder.publish("view.html", make_view(folder, 24))
    return {
        "folder": str(folder),
        "rejected": summary["rejected"],
        "samples": summary["samples"],
        "verified": verified["samples"],
        "view": folder.path("view.html"),
    }
