"""Suites that are made here: HQ images, cut and degraded by the plans of the synthesis part with a pinned seed.

The plan of an image follows from the seed and the key of its bytes alone, so that a suite has the same pixels on every
machine with the same library versions; the fingerprint tells where they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmarks.suites.ids import id_of
from benchmarks.suites.suite import Suite
from lucidflux_data.degradation.backends import Degrade, load_backend
from lucidflux_data.degradation.config import DegradeConfig, make_degrade_config
from lucidflux_data.degradation.plan import draw_plan
from lucidflux_data.errors import InputError
from lucidflux_data.images import IMAGE_EXTENSIONS, ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs.pair import cut, encode_hq, encode_lq, too_small
from lucidflux_data.sources.bundled import bundled_photos


def make_pairs(suite: Suite, archive: Path | None) -> dict[str, dict[str, bytes]]:
    """role -> id -> PNG bytes of every pair. InputError names an image that cannot be used."""
    assert suite.synthesis is not None
    about = suite.synthesis
    config = make_degrade_config(about.preset, [f"seed={about.seed}", f"size={about.size}"])
    degrade = load_backend("cv2")
    images: dict[str, dict[str, bytes]] = {"lq": {}, "gt": {}}
    for id_, data in _bundled(suite) if archive is None else _archived(suite, archive):
        if id_ in images["gt"]:
            raise InputError(f"{archive} has two images of id {id_}")
        images["lq"][id_], images["gt"][id_] = _pair(suite, id_, data, config, degrade)
    return images


def _pair(
    suite: Suite,
    id_: str,
    data: bytes,
    config: DegradeConfig,
    degrade: Degrade,
) -> tuple[bytes, bytes]:
    try:
        pixels = pixels_apart(data)
    except ImageError as error:
        raise InputError(f"{suite.name}: {id_} is {error.reason}: {error.detail}") from None
    if too_small(pixels.shape[1], pixels.shape[0], config):
        raise InputError(f"{suite.name}: {id_} is smaller than {config.size} pixels: it gives no pair")
    plan = draw_plan(hashlib.sha256(data).hexdigest()[:20], 0, config)
    hq, _ = cut(pixels, plan, config.crop)
    return encode_lq(degrade(hq, plan)), encode_hq(hq, "png")[1]


def _bundled(suite: Suite) -> Iterator[tuple[str, bytes]]:
    """The named photos of the package."""
    assert suite.synthesis is not None
    found = {path.stem: path for path in bundled_photos()}
    for name in suite.synthesis.photos or ():
        if name not in found:
            raise InputError(f"{suite.name}: the package has no photo {name}")
        yield name, found[name].read_bytes()


def _archived(suite: Suite, path: Path) -> Iterator[tuple[str, bytes]]:
    """Every image of the archive, at any depth, by its stem."""
    from benchmarks.suites.archives import opened

    with opened(path) as archive:
        names = sorted(name for name in archive.names() if Path(name).suffix.lower() in IMAGE_EXTENSIONS)
        if not names:
            raise InputError(f"{path} holds no images")
        for name in names:
            yield id_of(PurePosixPath(name)), archive.read(name)
