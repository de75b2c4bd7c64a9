"""What the curation rules tell apart on damaged real photos, and what near-duplicates cost at 2.95M: `curation`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypedDict

import cv2
import numpy as np
import typer

from benchmarks.throughput.timing import Facts, print_json
from lucidflux_data.measures.artifacts import blockiness, fixed_sharpness, spectral_cutoff
from lucidflux_data.measures.fingerprints import fingerprint, fingerprint_file, make_firewall
from lucidflux_data.measures.near_duplicates import dihedral, group_near, phash
from lucidflux_data.sources.listing import list_sources

app = typer.Typer()
Damage = Callable[[np.ndarray], np.ndarray]
# The area under the ROC, the share of damaged photos below the limit that loses 5% of the clean ones, and that limit.
Roc = TypedDict("Roc", {"auc": float, "found_at_5%_lost": float, "limit": float})


class FirewallReport(TypedDict):
    """Every second photo as a benchmark, and the others against it."""

    suite: int  # photos of the benchmark
    bytes_an_image: int  # of its fingerprints
    recall: dict[str, float]  # kind of copy -> share that is found
    ms_an_image: float
    other_photos: int
    taken_for_the_suite: dict[str, str]  # photo -> image of the benchmark that it is taken for


LONG_SIDE = 1400


@app.command("curation")
def curation_command(
    images: Annotated[Path, typer.Option(help="A folder of real photos.")],
    hashes: Annotated[int, typer.Option(help="For the time of near-duplicates; 0 for none.")] = 2_950_000,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here too.")] = None,
) -> None:
    """ROC of the strict rules, precision and recall of firewall and near-duplicates, time and memory at scale."""
    photos = read_photos(images)
    result: Facts = {"photos": len(photos), "rules": _rules(photos), "near_duplicates": _near(photos)}
    result["firewall"] = _firewall(photos)
    if hashes:
        result["near_duplicates_at_scale"] = _at_scale(hashes)
    print_json(result, out)


def read_photos(folder: Path) -> dict[str, np.ndarray]:
    """Luma at half size (so that there is detail up to the Nyquist frequency) of every JPEG of 800 px and more;
    of one picture in several sizes the first."""
    photos = {}
    for row in list_sources([str(folder)]).table.to_pylist():
        if row["source_key"].lower().endswith((".jpg", ".jpeg")):
            image = cv2.imread(row["uri"].removeprefix("file://"), cv2.IMREAD_GRAYSCALE)
            if image is not None and min(image.shape) >= 800 and image.std() > 15:
                half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                photos[row["source_key"]] = half[:LONG_SIDE, :LONG_SIDE]
    names = list(photos)
    roots = group_near(np.array([phash(photos[name]) or 0 for name in names], np.uint64), 6)
    return {name: photos[name] for name, root in zip(names, roots, strict=True) if names[root] == name}


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None, "what was just encoded can be decoded"
    return np.asarray(decoded)


def _noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _enlarged(image: np.ndarray, factor: float, kernel: int) -> np.ndarray:
    size = (round(image.shape[1] / factor), round(image.shape[0] / factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=kernel))


def _cut(image: np.ndarray, share: float) -> np.ndarray:
    height, width = round(image.shape[0] * share), round(image.shape[1] * share)
    top, left = (image.shape[0] - height) // 3, 2 * (image.shape[1] - width) // 3
    return image[top : top + height, left : left + width]


def _half(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _degraded(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(cv2.GaussianBlur(image, (0, 0), 2), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return _jpeg(_noisy(small, 12), 50)


DAMAGES: dict[str, tuple[Callable[[np.ndarray], float], dict[str, Damage]]] = {
    "blockiness": (
        lambda image: -blockiness(image),
        {f"jpeg {quality}": lambda image, q=quality: _jpeg(image, q) for quality in (90, 75, 50)}
        | {"jpeg 50, shifted grid, jpeg 95": lambda image: _jpeg(_jpeg(image, 50)[3:, 5:], 95)},
    ),
    "spectral_cutoff": (
        spectral_cutoff,
        {
            f"enlarged {factor} {name}": lambda image, f=factor, k=kernel: _enlarged(image, f, k)  # type: ignore[misc]
            for factor in (1.5, 2, 3, 4)
            for name, kernel in (("cubic", cv2.INTER_CUBIC), ("lanczos", cv2.INTER_LANCZOS4))
        },
    ),
    "fixed_sharpness": (
        fixed_sharpness,
        {
            "blur 2": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
            "blur 4": lambda image: cv2.GaussianBlur(image, (0, 0), 4),
            "blur 4, noise 10": lambda image: _noisy(cv2.GaussianBlur(image, (0, 0), 4), 10),
        },
    ),
    "raw laplacian variance": (
        lambda image: float(cv2.Laplacian(image, cv2.CV_64F).var()),
        {"blur 4, noise 10": lambda image: _noisy(cv2.GaussianBlur(image, (0, 0), 4), 10)},
    ),
}
COPIES: dict[str, Damage] = {
    "half size": _half,
    "jpeg 30": lambda image: _jpeg(image, 30),
    "flipped": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "turned": lambda image: np.ascontiguousarray(np.rot90(image)),
    "cut to 80%": lambda image: _cut(image, 0.8),
    "cut to 60%": lambda image: _cut(image, 0.6),
    "cut to 40%": lambda image: _cut(image, 0.4),
    "cut to 60%, half size, jpeg 50": lambda image: _jpeg(_half(_cut(image, 0.6)), 50),
    "x4 degraded (blur, noise, jpeg 50)": _degraded,
}


def _rules(photos: dict[str, np.ndarray]) -> dict[str, Roc]:
    """Area under the ROC, and the share of damaged photos found at the limit that loses 5% of the clean ones."""
    result: dict[str, Roc] = {}
    for measure, (score, damages) in DAMAGES.items():
        clean = np.array([score(image) for image in photos.values()])
        limit = float(np.percentile(clean, 5))
        for name, damage in damages.items():
            found = np.array([score(damage(image)) for image in photos.values()])
            above = (found[:, None] < clean[None]).mean() + 0.5 * (found[:, None] == clean[None]).mean()
            result[f"{measure}: {name}"] = {
                "auc": round(float(above), 3),
                "found_at_5%_lost": round(float((found < limit).mean()), 3),
                "limit": round(abs(limit), 3),
            }
    return result


def _near(photos: dict[str, np.ndarray]) -> Facts:
    """Recall of the hash by radius for each kind of copy, and pairs of different photos within it."""
    hashes = {name: value for name, image in photos.items() if (value := phash(image)) is not None}
    own = np.array(list(hashes.values()), np.uint64)
    result: Facts = {}
    for kind in ("half size", "jpeg 30", "flipped", "turned", "x4 degraded (blur, noise, jpeg 50)"):
        copies = np.array([phash(COPIES[kind](photos[name])) or 0 for name in hashes], np.uint64)
        distance = np.bitwise_count(dihedral(copies) ^ own[None]).min(axis=0)
        result[kind] = {str(radius): round(float((distance <= radius).mean()), 3) for radius in (2, 4, 6, 8)}
    distances = np.bitwise_count(dihedral(own)[:, :, None] ^ own[None, None]).min(axis=0)
    different = distances[np.triu_indices(len(own), 1)]
    result["pairs of photos"] = len(different)
    result["near pairs"] = {str(radius): int((different <= radius).sum()) for radius in (2, 4, 6, 8)}
    return result


def _firewall(photos: dict[str, np.ndarray]) -> FirewallReport:
    """Every second photo is the benchmark: copies of it that are found, and other photos that are taken for it."""
    names = sorted(photos)
    suite = names[::2]
    data = fingerprint_file([(name, name.encode(), photos[name]) for name in suite], "suite")
    firewall = make_firewall([data])
    firewall.match("", fingerprint(photos[suite[0]]))
    recall: dict[str, float] = {}
    for kind, change in COPIES.items():
        matches = [firewall.match("", fingerprint(change(photos[name]))) for name in suite]
        right = [
            match is not None and match.image == f"suite/{name}" for match, name in zip(matches, suite, strict=True)
        ]
        recall[kind] = round(float(np.mean(right)), 3)
    start = time.perf_counter()
    others = {name: firewall.match("", fingerprint(photos[name])) for name in names[1::2]}
    return {
        "suite": len(suite),
        "bytes_an_image": len(data) // len(suite),
        "recall": recall,
        "ms_an_image": round((time.perf_counter() - start) / max(1, len(others)) * 1e3, 1),
        "other_photos": len(others),
        "taken_for_the_suite": {name: match.image for name, match in others.items() if match is not None},
    }


def _at_scale(count: int) -> Facts:
    """Random hashes, one in ten a copy within the radius: seconds and peak memory of `group_near`."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = count // 10
    flips = np.zeros(copies, np.uint64)
    for _ in range(3):
        flips |= np.uint64(1) << rng.integers(0, 64, copies).astype(np.uint64)
    hashes[-copies:] = hashes[:copies] ^ flips
    group_near(hashes[:1000], 4)
    start = time.perf_counter()
    groups = group_near(hashes, 4)
    seconds = time.perf_counter() - start
    found = float((groups[-copies:] == np.arange(copies)).mean())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "hashes": count,
        "radius": 4,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "planted_found": found,
    }
