"""Forbidden suites are taken: what is known of them, and the fingerprints of images of which nothing is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import numpy as np

from benchmarks.suites.suite import suite_names
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError, luma
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.measures import fingerprints
from lucidflux_data.measures.firewall import PLACE
from lucidflux_data.selection import suites
from lucidflux_data.selection.config import SelectConfig
from lucidflux_data.selection.suites import ForbiddenSuite
from lucidflux_data.sources.listing import Listing
from lucidflux_data.storage.folder import Folder
from pipelines.execution.progress import warn


def take_suites(folder: Folder, rules: SelectConfig, limits: DecodeConfig) -> dict[str, ForbiddenSuite]:
    """The forbidden items that have fingerprints. ConfigError for one that has none, with `forbid_missing` warn a
    warning; a warning, too, for each of which some images have none. InputError for a fingerprint file that is damaged
    or of another version; StorageError where a store does not answer."""

    def make(item: str, listing: Listing, source: str) -> bytes:
        return _print_images(listing, source, item.rstrip("/").rsplit("/", 1)[-1], limits.max_pixels)

    taken = {}
    for item, kept in suites.read_copies(folder, rules).items():
        try:
            suite = suites.find_suite(item, kept, make, warn)
        except suites.MissingSuite as error:
            suites.check_missing(str(error), rules)
            warn(f"{error}: NOT CHECKED")
        else:
            taken[item] = suite
            if suite.data != kept:
                folder.publish(f"{PLACE}/{suites.copy_name(item)}", suite.data)
    return taken


def check_suites(folder: Folder, rules: SelectConfig) -> None:
    """ConfigError for a forbidden suite that is not there, before hours of measuring; its images are read later."""
    for item, kept in suites.read_copies(folder, rules).items():
        if kept is None and suites.own_file(item) is None and not suites.may_be_source(item):
            suites.check_missing(suites.NOWHERE.format(item=item) + _near_suites(item), rules)


def _near_suites(item: str) -> str:
    near = difflib.get_close_matches(item.lower(), suite_names(), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def make_fingerprints(source: str, suite: str, max_pixels: int) -> bytes:
    """The fingerprint file of all images of a source that can be read; it says how many there are. InputError for a
    source without images, StorageError where a store does not answer."""
    listing = suites.list_images(source, warn)
    return _print_images(listing, suites.digest_images(listing), suite, max_pixels)


def _print_images(listing: Listing, source: str, suite: str, max_pixels: int) -> bytes:
    """What cannot be read as a whole counts as one image that cannot be read."""

    def readable() -> Iterator[tuple[str, bytes, np.ndarray]]:
        for name, data in suites.read_images(listing):
            if isinstance(data, bytes):
                try:
                    yield name, data, luma(pixels_apart(data, DecodeConfig(max_pixels=max_pixels)))
                except ImageError:
                    continue

    images = listing.table.num_rows + suites.count_broken(listing)
    return fingerprints.fingerprint_file(readable(), suite, images, source)
