"""The firewall: candidates compared with the fingerprints of forbidden suites."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lucidflux_data.images import ImageError, decode, luma
from lucidflux_data.measures import fingerprints
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage.folder import Folder
from pipelines.execution.progress import Progress
from pipelines.filter.rows import HEAD, REASON, _Rows

LEAK_SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("leak", pa.string()),
        pa.field("leak_tiles", pa.int32()),
        pa.field("leak_bits", pa.int32()),
        REASON,
    ]
)


class FirewallUnit(_Rows):
    """scores/firewall-*: the benchmark image that a candidate shows."""

    schema = LEAK_SCHEMA

    def __init__(self, config: FilterConfig, measure: str, files: list[bytes]) -> None:
        self.config, self.measure, self.files = config, measure, files
        self._firewall: fingerprints.Firewall | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_firewall": None}

    def row(self, data: bytes, pixels: np.ndarray) -> dict[str, Any]:
        if self._firewall is None:
            self._firewall = fingerprints.make_firewall(self.files)
        match = self._firewall.match(hashlib.sha256(data).hexdigest(), fingerprints.fingerprint(luma(pixels)))
        if match is None:
            return {}
        return {"leak": match.image, "leak_tiles": match.tiles, "leak_bits": match.distance}


def firewall_files(folder: Folder, config: FilterConfig, progress: Progress) -> list[bytes]:
    """The fingerprints of every forbidden suite, kept in RUN/firewall. What cannot be had is a warning by name."""
    there = set(folder.names("firewall"))
    files = []
    for item in config.select.forbid:
        name = f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"
        if name not in there:
            data = fingerprints_of(item, config.decode.max_pixels)
            if data is None:
                progress.say(
                    f"warning: {item} is neither a folder nor a fingerprint file nor a suite with one: NOT CHECKED"
                )
                continue
            folder.publish(f"firewall/{name}", data)
        files.append(folder.read(f"firewall/{name}"))
    return files


def firewall_card(folder: Folder, config: FilterConfig) -> dict[str, Any]:
    """What a set was checked against: {checked: {suite: sha256 of its fingerprints}, not_checked: [...]}."""
    there = set(folder.names("firewall"))
    names = {item: f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet" for item in config.select.forbid}
    checked = {
        item: hashlib.sha256(folder.read(f"firewall/{name}")).hexdigest()
        for item, name in names.items()
        if name in there
    }
    return {"checked": checked, "not_checked": [item for item in names if item not in checked]}


def fingerprints_of(item: str, max_pixels: int) -> bytes | None:
    """The fingerprint file of a suite's name, of a folder or tar of images, or the file itself; None for none."""
    own = fingerprints.known_suites() / f"{item}.parquet"
    for path in (Path(item), own):
        if path.suffix == ".parquet" and path.is_file():
            return path.read_bytes()
    if "://" not in item and not Path(item).exists():
        return None
    return make_fingerprints(item, item.rstrip("/").rsplit("/", 1)[-1], max_pixels)


def make_fingerprints(source: str, suite: str, max_pixels: int) -> bytes:
    """The fingerprint file of all images of a source that can be read."""
    images = []
    for row in list_sources([source]).table.to_pylist():
        try:
            data = read_bytes(row["uri"], row["offset"], row["size"])
            images.append((row["source_key"], data, luma(decode(data, max_pixels))))
        except ImageError:
            continue
    return fingerprints.fingerprint_file(images, suite)
