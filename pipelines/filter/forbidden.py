"""The fingerprints of forbidden suites: of a fingerprint file, a prepared suite by its name, or images.

RUN/firewall has a copy of each by the item's name. It is compared with the item each time, by the sha256 of every image
of a folder, and made anew where that differs; it stands in for an item that is gone, which is said.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.suites.suite import suite_names
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ConfigError, InputError, StorageError
from lucidflux_data.images import ImageError, luma
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.measures import fingerprints
from lucidflux_data.measures.firewall import PLACE, Compared, describe_partly
from lucidflux_data.selection.config import SelectConfig
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.reading import PASSING, read_bytes
from lucidflux_data.storage.folder import Folder
from pipelines.execution.progress import Progress, warn


@dataclass(frozen=True)
class ForbiddenSuite:
    """`data`: the bytes of its fingerprint file."""

    compared: Compared
    data: bytes


def take_suites(
    folder: Folder, rules: SelectConfig, limits: DecodeConfig, progress: Progress
) -> dict[str, ForbiddenSuite]:
    """The forbidden items that have fingerprints. ConfigError for one that has none, with `forbid_missing` warn a
    warning; a warning, too, for each of which some images have none. InputError for a fingerprint file that is damaged
    or of another version; StorageError where a store does not answer."""
    there = set(folder.names(PLACE))
    suites = {}
    for item in dict.fromkeys(rules.forbid):
        name = _copy_name(item)
        kept = folder.read(f"{PLACE}/{name}") if name in there else None
        try:
            suite = _take_suite(item, limits.max_pixels, kept, progress)
        except _Missing as error:
            _tell_missing(str(error), rules, progress)
        else:
            suites[item] = suite
            if suite.data != kept:
                folder.publish(f"{PLACE}/{name}", suite.data)
    return suites


class _Missing(Exception):
    """A forbidden item with which nothing can be compared."""


def _tell_missing(what: str, rules: SelectConfig, progress: Progress) -> None:
    if rules.forbid_missing == "stop":
        raise ConfigError(f"{what}: put it in place, or --forbid-missing warn selects a set that is NOT checked")
    warn(f"{what}: NOT CHECKED")


def check_suites(folder: Folder, rules: SelectConfig) -> None:
    """ConfigError for a forbidden suite that is not there, before hours of measuring; its images are read later."""
    kept = set(folder.names(PLACE))
    for item in rules.forbid if rules.forbid_missing == "stop" else ():
        if _own_file(item) is None and _copy_name(item) not in kept and not _may_be_source(item):
            _tell_missing(_NOWHERE.format(item=item) + _near_suites(item), rules, Progress(quiet=True))


_NOWHERE = "{item} is neither a folder nor a fingerprint file nor a suite with one"


def _near_suites(item: str) -> str:
    near = difflib.get_close_matches(item.lower(), suite_names(), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _copy_name(item: str) -> str:
    return f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"


def _own_file(item: str) -> Path | None:
    """The fingerprint file that an item is, or is the suite's name of."""
    own = fingerprints.known_suites() / f"{item}.parquet"
    return next((path for path in (Path(item), own) if path.suffix == ".parquet" and path.is_file()), None)


def _may_be_source(item: str) -> bool:
    return "://" in item or Path(item).exists()


def _take_suite(item: str, max_pixels: int, kept: bytes | None, progress: Progress) -> ForbiddenSuite:
    try:
        data = _find_fingerprints(item, max_pixels, kept)
    except InputError as error:
        if kept is None:
            raise _Missing(str(error)) from None
        warn(f"{error}: the fingerprints that this run took of it before are used")
        data = kept
    try:
        images, of = fingerprints.count_images(data)
    except InputError as error:
        raise InputError(f"{item}: {error}") from None
    if images == 0:
        raise _Missing(f"{item} has no image that can be read")
    compared = Compared(sha256=hashlib.sha256(data).hexdigest(), images=images, of=of)
    if images != of:
        again = ": make it again with `lucidflux-data fingerprint` or `lucidflux bench prepare`" if of is None else ""
        warn(f"{item} is NOT CHECKED as a whole ({describe_partly(compared)}){again}")
    return ForbiddenSuite(compared, data)


def _find_fingerprints(item: str, max_pixels: int, kept: bytes | None) -> bytes:
    """The fingerprint file of an item; `kept` is the run's, which serves where the images are the same. InputError
    where there is no such item, or it holds no images."""
    file = _own_file(item)
    if file is not None:
        return file.read_bytes()
    if not _may_be_source(item):
        raise InputError(_NOWHERE.format(item=item))
    listing = _list(item)
    source = digest_images(listing)
    if kept is not None and _source_of(kept) == source:
        return kept
    return _print_images(listing, source, item.rstrip("/").rsplit("/", 1)[-1], max_pixels)


def _source_of(data: bytes) -> str:
    """What a fingerprint file was made of; empty where it does not say, or is damaged."""
    try:
        metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return ""
    made_of: bytes = metadata.get(b"source", b"")
    return made_of.decode()


def make_fingerprints(source: str, suite: str, max_pixels: int) -> bytes:
    """The fingerprint file of all images of a source that can be read; it says how many there are. InputError for a
    source without images, StorageError where a store does not answer."""
    listing = _list(source)
    return _print_images(listing, digest_images(listing), suite, max_pixels)


def _list(source: str) -> Listing:
    listing = list_sources([source])
    for warning in listing.all_warnings():
        warn(warning)
    return listing


def digest_images(listing: Listing) -> str:
    """sha256 over names and bytes of the images of a suite: the same for the same fingerprints."""
    whole = hashlib.sha256(f"fingerprints {fingerprints.VERSION}, {_count_broken(listing)} broken".encode())
    for name, data in _read_images(listing):
        whole.update(f"\n{name}\0{data if isinstance(data, str) else hashlib.sha256(data).hexdigest()}".encode())
    return whole.hexdigest()


def _print_images(listing: Listing, source: str, suite: str, max_pixels: int) -> bytes:
    """What cannot be read as a whole counts as one image that cannot be read."""

    def readable() -> Iterator[tuple[str, bytes, np.ndarray]]:
        for name, data in _read_images(listing):
            if isinstance(data, bytes):
                try:
                    yield name, data, luma(pixels_apart(data, DecodeConfig(max_pixels=max_pixels)))
                except ImageError:
                    continue

    images = listing.table.num_rows + _count_broken(listing)
    return fingerprints.fingerprint_file(readable(), suite, images, source)


def _count_broken(listing: Listing) -> int:
    """Tars that break off, packed ones, damaged Parquet files, and folders that are not gone into: whatever images they
    hold are not compared."""
    return len(listing.damaged_tars) + sum(listing.ignored_by.get(kind, 0) for kind in UNSEEN)


UNSEEN = ("damaged_files", "packed_tars", "folders")


def _read_images(listing: Listing) -> Iterator[tuple[str, bytes | str]]:
    """(name in the source, bytes or the reason why there are none) of each image."""
    for row in listing.table.to_pylist():
        try:
            yield row["source_key"], read_bytes(row["uri"], row["offset"], row["size"])
        except ImageError as error:
            if error.detail == PASSING:
                raise StorageError(f"{row['uri']} did not answer: repeat the command to resume") from None
            yield row["source_key"], error.reason
