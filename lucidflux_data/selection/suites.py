"""Forbidden suites as far as they are known: fingerprint files, and the copies that a run took of others.

RUN/firewall has a copy of each by the item's name. It is compared with the item each time, by the sha256 of every image
of a folder, and made anew where that differs; it stands in for an item that is gone, which is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lucidflux_data.errors import ConfigError, ImageError, InputError, StorageError
from lucidflux_data.measures import fingerprints
from lucidflux_data.measures.firewall import PLACE, Compared, describe_partly
from lucidflux_data.selection.config import SelectConfig
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.reading import PASSING, read_bytes
from lucidflux_data.storage.folder import Folder

# Of which nobody knows what images they hold.
UNSEEN = ("damaged_files", "packed_tars", "folders")
# An item, its images, what stands for them -> the fingerprint file of them.
Make = Callable[[str, Listing, str], bytes]
NOWHERE = "{item} is neither a folder nor a fingerprint file nor a suite with one"


@dataclass(frozen=True)
class ForbiddenSuite:
    """`data`: the bytes of its fingerprint file."""

    compared: Compared
    data: bytes


class MissingSuite(Exception):
    """A forbidden item with which nothing can be compared."""


class NotTaken(Exception):
    """A forbidden item whose fingerprints were not taken yet, or of other images than there are now."""


def find_known(folder: Folder, rules: SelectConfig) -> tuple[dict[str, ForbiddenSuite], bool]:
    """The forbidden items that have fingerprints, and whether none is left to be taken; nothing is written. ConfigError
    and InputError as of `find_suites`."""

    def refuse(item: str, listing: Listing, source: str) -> bytes:
        raise NotTaken(item)

    found: dict[str, ForbiddenSuite] = {}
    whole = True
    for item, kept in read_copies(folder, rules).items():
        try:
            found[item] = find_suite(item, kept, refuse, lambda _: None)  # the one who selected has seen it
        except NotTaken:
            whole = False
        except MissingSuite as error:
            check_missing(str(error), rules)
    return found, whole


def read_copies(folder: Folder, rules: SelectConfig) -> dict[str, bytes | None]:
    """The copy that the run has of each forbidden item."""
    there = set(folder.names(PLACE))
    names = {item: copy_name(item) for item in dict.fromkeys(rules.forbid)}
    return {item: folder.read(f"{PLACE}/{name}") if name in there else None for item, name in names.items()}


def check_missing(what: str, rules: SelectConfig) -> None:
    """ConfigError for a forbidden item that is missing, unless the rules go on without."""
    if rules.forbid_missing == "stop":
        raise ConfigError(f"{what}: put it in place, or --forbid-missing warn selects a set that is NOT checked")


def copy_name(item: str) -> str:
    """Of the copy of an item below RUN/firewall."""
    return f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"


def own_file(item: str) -> Path | None:
    """The fingerprint file that an item is, or is the suite's name of."""
    own = fingerprints.known_suites() / f"{item}.parquet"
    return next((path for path in (Path(item), own) if path.suffix == ".parquet" and path.is_file()), None)


def may_be_source(item: str) -> bool:
    """Whether an item may be a folder, or another source, of images."""
    return "://" in item or Path(item).exists()


def find_suite(item: str, kept: bytes | None, make: Make, warn: Callable[[str], None]) -> ForbiddenSuite:
    """A forbidden item and its fingerprints; `kept`: the copy of the run. `make` is called for images without one.
    MissingSuite where there are none, InputError for a fingerprint file that is damaged or of another version."""
    try:
        data = _find_fingerprints(item, kept, make, warn)
    except InputError as error:
        if kept is None:
            raise MissingSuite(str(error)) from None
        warn(f"{error}: the fingerprints that this run took of it before are used")
        data = kept
    try:
        images, of = fingerprints.count_images(data)
    except InputError as error:
        raise InputError(f"{item}: {error}") from None
    if images == 0:
        raise MissingSuite(f"{item} has no image that can be read")
    compared = Compared(sha256=hashlib.sha256(data).hexdigest(), images=images, of=of)
    if images != of:
        again = ": make it again with `lucidflux-data fingerprint` or `lucidflux bench prepare`" if of is None else ""
        warn(f"{item} is NOT CHECKED as a whole ({describe_partly(compared)}){again}")
    return ForbiddenSuite(compared, data)


def _find_fingerprints(item: str, kept: bytes | None, make: Make, warn: Callable[[str], None]) -> bytes:
    """The fingerprint file of an item; `kept` is the run's, which serves where the images are the same. InputError
    where there is no such item, or it holds no images."""
    file = own_file(item)
    if file is not None:
        return file.read_bytes()
    if not may_be_source(item):
        raise InputError(NOWHERE.format(item=item))
    listing = list_images(item, warn)
    source = digest_images(listing)
    if kept is not None and _source_of(kept) == source:
        return kept
    return make(item, listing, source)


def list_images(source: str, warn: Callable[[str], None]) -> Listing:
    """The images of a suite; `warn` gets a sentence for what could not be listed as a whole."""
    listing = list_sources([source])
    for warning in listing.all_warnings():
        warn(warning)
    return listing


def _source_of(data: bytes) -> str:
    """What a fingerprint file was made of; empty where it does not say, or is damaged."""
    try:
        metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return ""
    made_of: bytes = metadata.get(b"source", b"")
    return made_of.decode()


def digest_images(listing: Listing) -> str:
    """sha256 over names and bytes of the images of a suite: the same for the same fingerprints."""
    whole = hashlib.sha256(f"fingerprints {fingerprints.VERSION}, {count_broken(listing)} broken".encode())
    for name, data in read_images(listing):
        whole.update(f"\n{name}\0{data if isinstance(data, str) else hashlib.sha256(data).hexdigest()}".encode())
    return whole.hexdigest()


def count_broken(listing: Listing) -> int:
    """Tars that break off, packed ones, damaged Parquet files, and folders that are not gone into: whatever images they
    hold are not compared."""
    return len(listing.damaged_tars) + sum(listing.ignored_by.get(kind, 0) for kind in UNSEEN)


def read_images(listing: Listing) -> Iterator[tuple[str, bytes | str]]:
    """(name in the source, bytes or the reason why there are none) of each image."""
    for row in listing.table.to_pylist():
        try:
            yield row["source_key"], read_bytes(row["uri"], row["offset"], row["size"])
        except ImageError as error:
            if error.detail == PASSING:
                raise StorageError(f"{row['uri']} did not answer: repeat the command to resume") from None
            yield row["source_key"], error.reason
