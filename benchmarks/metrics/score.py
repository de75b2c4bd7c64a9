"""Scores of saved files, one metric at a time, kept by content.

    methods, suite -> items (image, reference) -> cache -> what is missing is scored in units -> per-image table

The cache is a folder of small immutable files, CACHE/<metric>-<fingerprint>/<unit>.parquet: killed at any moment, what
is there stays, and the same image is never scored twice by the same metric, whatever run or method it came from.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.leaderboard.columns import NO_REFERENCE
from benchmarks.methods.copies import OutputFile
from benchmarks.methods.staging import stage
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.weights import FEATURES
from benchmarks.suites.suite import Suite
from lucidflux_data.codecs.memory import within_memory
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.images import ImageError
from lucidflux_data.iqa import fidelity, pyiqa_models
from lucidflux_data.iqa import metrics as iqa
from lucidflux_data.iqa.batches import OutOfMemory
from lucidflux_data.iqa.clipiqa import load_feature_distance
from lucidflux_data.iqa.pins import file_sha256
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import table_bytes

UNIT_IMAGES = 8  # a crash costs at most this many scores
SLOW = frozenset({"maniqa", "maniqa-pipal", "qalign"})  # a minute an image on a CPU: one image a unit
FAILED = "metric_failed"  # begins the reason where another library raised an error of its own for an image
TRANSIENT = ("iqa_out_of_memory", "missing", "changed", FAILED)  # tried again by the next run, which may end otherwise
MIN_SIDE_PX = 11  # SSIM's window

CACHED = pa.schema(
    [
        ("image", pa.string()),
        ("reference", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
    ]
)
PER_IMAGE = pa.schema(
    [
        ("suite", pa.string()),
        ("method", pa.string()),
        ("seed", pa.string()),
        ("id", pa.string()),  # empty for a metric of a whole set
        ("metric", pa.string()),
        ("value", pa.float64()),  # null where there is a reason
        ("reason", pa.string()),
        ("seconds", pa.float64()),
    ]
)
Key = tuple[str, str]  # sha256 of the image, sha256 of the reference or ""


class Outcome(TypedDict):
    """A score, or why there is none."""

    value: float | None
    reason: str | None
    seconds: float | None


class ScoreRow(Outcome):
    """A row of CACHED."""

    image: str  # sha256
    reference: str  # sha256, "" for metrics of single images


class ImageRow(Outcome):
    """A row of PER_IMAGE."""

    suite: str
    method: str
    seed: str
    id: str
    metric: str


@dataclass(frozen=True)
class Item:
    """One score to be had. `reference` is None for metrics of single images."""

    key: Key
    path: str
    reference: str | None


def make_items(spec: MetricSpec, methods: list[Method], suite: Suite) -> list[Item]:
    """Every distinct (image, reference) that a metric has to score, sorted by key."""
    items = {}
    for method in methods:
        for files in method.files.values():
            for id_, file in files.items():
                item = _item(spec, file, id_, suite)
                if item is not None:
                    items[item.key] = item
    return [items[key] for key in sorted(items)]


def _item(spec: MetricSpec, file: OutputFile, id_: str, suite: Suite) -> Item | None:
    if file.reason:
        return None
    if spec.needs == "nothing":
        return Item((file.sha256, ""), str(file.path), None)
    reference = (suite.gt if spec.needs == "gt" else suite.lq).get(id_)
    if reference is None:
        return None
    return Item((file.sha256, file_sha256(reference)), str(file.path), str(reference))


def why_not(spec: MetricSpec, suite: Suite, device: str) -> str | None:
    """Why a metric has no column here, None where it can run. VerificationError where it was asked for by name and a
    file of its weights may not be opened."""
    from benchmarks.metrics import outside, weights

    if spec.needs in ("gt", "set") and not suite.gt:
        if suite.name == "ad-hoc":
            return f"{spec.name} compares with a reference: give --gt DIR"
        if not suite.has_gt:
            return f"{spec.name} compares with a reference, and {suite.name} has none"
        return f"{spec.name} compares with a reference: `lucidflux bench prepare {suite.name}` puts it in place"
    if spec.needs == "lq" and not suite.lq:
        give = "give --inputs DIR" if suite.name == "ad-hoc" else f"`lucidflux bench prepare {suite.name}`"
        return f"{spec.name} compares with the inputs: {give}"
    problem = weights.problem(spec.name, "any" if spec.asked else device)
    if problem and spec.outside and spec.asked and outside.wrong_weights(spec.name):
        raise VerificationError(problem)
    if problem and spec.asked and not weights.missing_weights(spec.name) and weights.wrong_weights(spec.name):
        raise VerificationError(problem)
    return problem


def cache_place(spec: MetricSpec, device: str) -> str:
    return f"{spec.name}-{spec.fingerprint(device)}"


def read_cache(cache: Folder, place: str) -> dict[Key, ScoreRow]:
    """All scores of one metric and fingerprint, by key; a value stands before a reason of an earlier run."""
    rows: dict[Key, ScoreRow] = {}
    for name in cache.names(place):
        for row in cache.read_table(f"{place}/{name}").to_pylist():
            key = row["image"], row["reference"]
            if key not in rows or rows[key]["value"] is None:
                rows[key] = row
    return rows


def is_settled(row: ScoreRow | None) -> bool:
    """Whether a row of the cache needs no other try."""
    return row is not None and not str(row["reason"] or "").startswith(TRANSIENT)


def missing_units(
    items: list[Item], known: dict[Key, ScoreRow], images: int = UNIT_IMAGES
) -> Iterator[tuple[str, list[Item]]]:
    """(name, items) of the units that are still to be scored; the name follows from the items alone."""
    wanted = [item for item in items if not is_settled(known.get(item.key))]
    for start in range(0, len(wanted), images):
        part = wanted[start : start + images]
        yield digest([item.key for item in part])[:20], part


class ScoreImages:
    """Scores the items of a unit with one metric; the model is loaded at the first unit and kept."""

    def __init__(self, spec: MetricSpec, device: str) -> None:
        self.spec = spec
        self.device = device
        self.place = cache_place(spec, device)
        self._scorer: Callable[[np.ndarray, np.ndarray | None], float] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_scorer": None}

    def __call__(self, name: str, items: Iterable[Item]) -> Iterator[tuple[str, bytes]]:
        """(file name, parquet bytes) for the cache."""
        if self.spec.outside:
            rows = score_outside(self.spec, list(items))
            yield f"{self.place}/{name}.parquet", table_bytes(pa.Table.from_pylist(rows, CACHED))
            return
        if self._scorer is None:
            self._scorer = load_scorer(self.spec, self.device)
        rows = [score_item(item, self._scorer) for item in items]
        yield f"{self.place}/{name}.parquet", table_bytes(pa.Table.from_pylist(rows, CACHED))


def unit_images(spec: MetricSpec, items: list[Item]) -> int:
    """Images of a unit: all of a metric that starts an environment of its own, one of a slow one."""
    return max(1, len(items)) if spec.outside else 1 if spec.name in SLOW else UNIT_IMAGES


def score_outside(spec: MetricSpec, items: list[Item]) -> list[ScoreRow]:
    """Rows of CACHED of all items, by one run of a metric's command; seconds are shared among them."""
    from benchmarks.metrics import outside

    start = time.perf_counter()
    found = outside.run_outside(spec.name, {item.key[0]: item.path for item in items}, spec.draw)
    seconds = round((time.perf_counter() - start) / len(items), 4)
    rows: list[ScoreRow] = []
    for item in items:
        value = found[item.key[0]]
        if file_sha256(Path(item.path)) != item.key[0]:
            value = "the file was replaced"
        why = f"{FAILED} ({value[:80]})" if isinstance(value, str) else None
        number = None if isinstance(value, str) else value
        rows.append({"image": item.key[0], "reference": "", "value": number, "reason": why, "seconds": seconds})
    return rows


def average_draws(draws: list[dict[Key, ScoreRow]]) -> dict[Key, ScoreRow]:
    """The mean of the draws of every image; one that a draw has no value for has none."""
    found: dict[Key, ScoreRow] = {}
    for key, row in draws[0].items():
        rows = [draw[key] for draw in draws if key in draw]
        reasons = [one["reason"] for one in rows if one["value"] is None]
        values = [one["value"] for one in rows if one["value"] is not None]
        whole = len(values) == len(draws)
        value = math.fsum(values) / len(values) if whole else None
        seconds = sum(one["seconds"] or 0.0 for one in rows)
        found[key] = {**row, "value": value, "reason": None if whole else reasons[0], "seconds": seconds}
    return found


def score_item(item: Item, scorer: Callable[[np.ndarray, np.ndarray | None], float]) -> ScoreRow:
    """A row of CACHED: a finite value, or a reason."""
    start = time.perf_counter()
    found: float | None = None
    reason: str | None = None
    try:
        image = _pixels(item.path, item.key[0])
        reference = _pixels(item.reference, item.key[1]) if item.reference else None
        with within_memory():
            value = scorer(image, reference)
        found, reason = (value, None) if math.isfinite(value) else (None, "iqa_not_finite")
    except OutOfMemory:
        reason = "iqa_out_of_memory"
    except ImageError as error:
        reason = error.reason
    except ConfigError:
        raise
    except Exception as error:  # one image that a library does not take is no end of the others
        said = (str(error).splitlines() or [""])[0]
        reason = f"{FAILED} ({type(error).__name__}: {said[:80]})"
    seconds = round(time.perf_counter() - start, 4)
    return {"image": item.key[0], "reference": item.key[1], "value": found, "reason": reason, "seconds": seconds}


def _pixels(path: str, sha256: str) -> np.ndarray:
    """ImageError `changed` where the file is another one than the key says: no score of it may be kept under that."""
    data = read_file(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ImageError("changed", "the bytes are not those that were read before")
    return pixels_apart(data)


def load_scorer(spec: MetricSpec, device: str) -> Callable[[np.ndarray, np.ndarray | None], float]:
    """(output, reference or None) -> number, both uint8 HxWx3 RGB; crop and channel as the metric says."""
    channel = spec.parameters().get("channel", "rgb")
    if spec.name == "lr_consistency":
        return _lr_consistency
    if spec.name in FEATURES:
        distance = load_feature_distance(device)
        return lambda image, other: distance(image, _enlarged(other, image))
    if spec.needs == "nothing":
        single = iqa.load_metric(spec.name, device)
        return lambda image, _: float(next(iter(single([_cropped(image, spec.crop)]))))
    compare = iqa.load_comparison(spec.name, device)

    def with_reference(image: np.ndarray, reference: np.ndarray | None) -> float:
        assert reference is not None, "an item of a metric with reference has one"
        if image.shape != reference.shape:
            raise ImageError("wrong_size", "output and reference have different sizes")
        pair = _cropped(image, spec.crop), _cropped(reference, spec.crop)
        if spec.name == "psnr":
            return fidelity.psnr(*pair, channel)
        if spec.name == "ssim":
            return fidelity.ssim(*pair, channel)
        return compare(*pair)

    return with_reference


def _cropped(image: np.ndarray, crop: int) -> np.ndarray:
    if min(image.shape[:2]) < 2 * crop + MIN_SIDE_PX:
        raise ImageError("too_small", f"the metric needs {2 * crop + MIN_SIDE_PX} pixels on each side")
    return image[crop : image.shape[0] - crop, crop : image.shape[1] - crop] if crop else image


def _lr_consistency(image: np.ndarray, lq: np.ndarray | None) -> float:
    """PSNR (RGB, dB) of the output, shrunk to the input's size by Pillow's bicubic with antialiasing, against the
    input: low where a method invents what the input excludes."""
    assert lq is not None, "this metric's items have the input as reference"
    small = Image.fromarray(image).resize(lq.shape[1::-1], Image.Resampling.BICUBIC)
    return fidelity.psnr(np.asarray(small), lq)


def _enlarged(other: np.ndarray | None, image: np.ndarray) -> np.ndarray:
    """A reference as it is; an input, enlarged to the output's size by Pillow's bicubic."""
    assert other is not None, "items of these metrics have one"
    if other.shape == image.shape:
        return other
    return np.array(Image.fromarray(other).resize(image.shape[1::-1], Image.Resampling.BICUBIC))


def per_image_table(
    suite: Suite, methods: list[Method], ids: tuple[str, ...], scores: dict[str, tuple[MetricSpec, dict[Key, ScoreRow]]]
) -> pa.Table:
    """PER_IMAGE: a row for every method, seed, id and metric; what could not be scored has its reason."""
    rows: list[ImageRow] = []
    for name, (spec, known) in scores.items():
        for method in methods:
            for seed, files in method.files.items():
                for id_ in ids:
                    rows.append(
                        {
                            **_outcome(spec, files.get(id_), id_, suite, known),
                            "suite": suite.label(),
                            "method": method.name,
                            "seed": seed,
                            "id": id_,
                            "metric": name,
                        }
                    )
    return pa.Table.from_pylist(rows, PER_IMAGE)


def _outcome(spec: MetricSpec, file: OutputFile | None, id_: str, suite: Suite, known: dict[Key, ScoreRow]) -> Outcome:
    if file is None or file.reason:
        return {"value": None, "reason": file.reason if file else "missing", "seconds": None}
    item = _item(spec, file, id_, suite)
    if item is None:
        return {"value": None, "reason": NO_REFERENCE, "seconds": None}
    row = known[item.key]
    return {"value": row["value"], "reason": row["reason"], "seconds": row["seconds"]}


def score_set(method: Method, seed: str, suite: Suite, device: str) -> Outcome:
    """FID of one seed of a method against the references of the same ids: value, reason, seconds."""
    start = time.perf_counter()
    files = _set_files(method, seed, suite)
    if len(files) < 2:
        return {"value": None, "reason": "too_few_images", "seconds": None}
    if any(file_sha256(file.path) != file.sha256 for file in files.values()):
        return {"value": None, "reason": "changed", "seconds": None}
    with tempfile.TemporaryDirectory() as place:
        for role, paths in (("out", {i: f.path for i, f in files.items()}), ("gt", {i: suite.gt[i] for i in files})):
            stage(paths, Path(place, role), "link")  # upright, and in a format that pyiqa reads
        value = pyiqa_models.frechet_distance(f"{place}/out", f"{place}/gt", device)
    return {"value": value, "reason": None, "seconds": round(time.perf_counter() - start, 4)}


def images_in_sets(method: Method, suite: Suite) -> int:
    """Images that a metric of a set is over, of the seed that has fewest."""
    return min(len(_set_files(method, seed, suite)) for seed in method.files)


def _set_files(method: Method, seed: str, suite: Suite) -> dict[str, OutputFile]:
    return {id_: file for id_, file in method.files[seed].items() if not file.reason and id_ in suite.gt}
