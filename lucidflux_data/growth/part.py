"""The images of a published set as a scored run, from which a selection draws: RUN/base/<digest>/.

run.json comes last: with it the part is whole. Nothing is decoded: what the set says of its images is taken over, and
the hashes of a run folder too; other hashes are measured by `select`, as those of any candidate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lucidflux_data.codecs import version
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.growth.published import (
    Published,
    PublishedImage,
    describe_differences,
    open_published,
    original_keys,
    read_images,
)
from lucidflux_data.selection import records, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.columns import OF_BASE
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.pool import ORIGINALS, concat_rows, load_pool
from lucidflux_data.selection.run import BaseCard, Listed
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.shard import ShardEntry
from lucidflux_data.shards.verify import PLACE
from lucidflux_data.sources.listing import INVENTORY
from lucidflux_data.sources.uris import escape_url
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import checked_bytes
from lucidflux_data.storage.run_folder import FORGOTTEN, RUN_FILE

BASE = "base"  # below a run; and in run.json and in a manifest
PUBLISHED = "published.json"  # in the part: the manifest of the set
# What a ledger and the json of a sample say of an image and scores/basic has; all else (`group` too) goes to OF_BASE.
KNOWN = {*records.BASIC.names, "side", "leak", "stripped", "normalized"}


@dataclass(frozen=True)
class OldShard:
    """A shard of the base. `keys`: of its images, in order."""

    entry: ShardEntry
    keys: list[str]

    @property
    def name(self) -> str:
        return self.entry["name"].removesuffix(".tar")


def take_base(folder: Folder, place: str, config: FilterConfig) -> BaseCard:
    """Makes the part of the set at `place`, or finds it made, and notes it in run.json. Gives what that says of it.

    Errors as of `open_published`; ConfigError where the set is the run itself.
    """
    if runs.place_of(Folder(place)) == runs.place_of(folder):
        raise ConfigError(f"{place} is {folder} itself: a set is added to in another run")
    published = open_published(place)
    part = Folder(f"{folder.url}/{BASE}/{published.sha256[:12]}")
    part.sweep()
    if not part.exists(RUN_FILE):
        _write_part(part, published, config)
    card: BaseCard = {
        "part": f"{BASE}/{published.sha256[:12]}",
        "place": published.folder.url,
        "manifest_sha256": published.sha256,
        "content_sha256": published.manifest["content_sha256"],
        "samples": published.manifest["samples"],
        "shards": len(published.manifest["shards"]),
        "version": published.version,
        "differs": describe_differences(published, config),
    }
    run = runs.read_run(folder)
    if run.get("base") != card:
        run_folder.write_about(folder, {**run, "base": card})
    return card


def drop_base(folder: Folder) -> None:
    """The run adds to no set any more."""
    run = runs.read_run(folder)
    if "base" in run:
        run_folder.write_about(folder, {name: value for name, value in run.items() if name != "base"})


def part_of(folder: Folder) -> Folder | None:
    """The part of the set that a run adds to; None where it adds to none."""
    run = runs.read_run(folder)
    return Folder(f"{folder.url}/{run['base']['part']}") if "base" in run else None


def _write_part(part: Folder, published: Published, config: FilterConfig) -> None:
    images = list(read_images(published))
    url = published.folder.url
    inventory = [
        {
            "uri": uri_of(url, image),
            "source_key": str(image.record.get("source_key", image.row["member"])),
            "source": 0,
            "size": image.row["size"],
            "offset": image.row["offset"],
            "side": image.record.get("side"),
        }
        for image in images
    ]
    run_folder.write_inventory(part, pa.Table.from_pylist(inventory, INVENTORY))
    _write_units(part, "basic", pa.Table.from_pylist([_basic_row(url, image) for image in images], records.BASIC))
    for measure, table in _further_measures(published, images, config):
        _write_units(part, measure, table)
    part.publish(ORIGINALS, checked_bytes(original_keys(published)))
    if published.folder.exists(FORGOTTEN):
        part.publish(FORGOTTEN, published.folder.read(FORGOTTEN))
    part.publish(PUBLISHED, published.folder.read(shards.MANIFEST))
    listed: Listed = {"sources": [url], "limit": None, "seed": None, "candidates": len(images), "ignored": 0,
                      "ignored_by": {}, "total": len(images), "damaged_tars": [], "warnings": [],
                      "allowed": [url, *config.storage.allow_uris]}  # fmt: skip
    run_folder.write_about(part, runs.make_run(config, listed, "lucidflux"))


def uri_of(url: str, image: PublishedImage) -> str:
    """Of an image in a tar of the set at `url`."""
    return f"{escape_url(f'{url}/{PLACE}/{image.shard}')}#{image.row['member']}"


def _basic_row(url: str, image: PublishedImage) -> dict[str, Any]:
    about = {name: image.record.get(name) for name in records.BASIC.names}
    normalized = {"format": "png"} if image.record.get("normalized") else {}
    own = {"key": image.row["key"], "uri": uri_of(url, image), "sha256": image.sha256, "bytes": image.row["size"]}
    source_key = str(image.record.get("source_key", image.row["member"]))
    return {**about, **own, **normalized, "source_key": source_key, "status": "ok", "reason": None, "detail": None}


def _further_measures(
    published: Published, images: list[PublishedImage], config: FilterConfig
) -> Iterable[tuple[str, pa.Table]]:
    """(measure, rows in order of the images, null ones where nothing is known): the score of the metric in force, the
    columns of the set, and its hashes where they are those that would be measured."""
    head = {
        "uri": pa.array([uri_of(published.folder.url, image) for image in images], pa.string()),
        "key": pa.array([image.row["key"] for image in images], pa.string()),
    }
    no_reason = pa.nulls(len(images), pa.string())
    metric = config.iqa.metric
    names = sorted({name for image in images for name in image.record} - KNOWN)
    columns = {name: _column([image.record.get(name) for image in images]) for name in names}
    if metric in columns and pa.types.is_floating(columns[metric].type):
        yield metric, pa.table({**head, metric: columns.pop(metric), "reason": no_reason})
    if columns:
        yield OF_BASE, pa.table({**head, **columns, "reason": no_reason})
    history = _read_hashes(published, [image.row["key"] for image in images])
    if history is not None:
        yield rules.HISTORY, pa.table({**head, **{name: history[name] for name in history.column_names}})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def _read_hashes(published: Published, keys: list[str]) -> pa.Table | None:
    """scores/history of the images (all columns but uri and key), taken over from a run of these decoders; None where
    one is missing there."""
    run = published.run
    if run is None or FilterConfig.model_validate(run["config"]).shards.normalize:
        return None
    try:
        parts = runs.parts(published.folder)
        if any(runs.decoder_version(runs.read_run(one.folder)) != version.DECODER_VERSION for one in parts):
            return None
        pool = load_pool(parts)
        tables = [pool.measure(number, rules.HISTORY) for number in range(len(parts))]
    except InputError:  # a run that it draws from is gone: measured again, that is all
        return None
    whole = [table for table in tables if table is not None]
    if not whole or len(whole) < len(tables):
        return None
    packed = stripping.packed_keys(published.folder)
    own = concat_rows(pool, [basic["key"] for basic in pool.basics]).to_pylist()
    measured = pool.measured(rules.HISTORY)
    rows: dict[str, int] = {}
    for row, key in enumerate(own):
        if key is not None and measured[row]:
            rows.setdefault(packed.get(key, key), row)
    if not set(keys) <= rows.keys():
        return None
    wanted = pa.array([rows[key] for key in keys])
    return pa.table(
        {name: concat_rows(pool, [table[name] for table in whole]).take(wanted) for name in whole[0].column_names}
    )


def has_hashes(published: Published) -> bool:
    """Whether the set tells the hashes of near-duplicates that would be measured of its images."""
    return _read_hashes(published, [image.row["key"] for image in read_images(published)]) is not None


def _write_units(part: Folder, measure: str, table: pa.Table) -> None:
    size = run_folder.unit_size(table.num_rows)
    for number in range(-(-table.num_rows // size)):
        some = table.slice(number * size, size).combine_chunks()
        part.publish(f"scores/{measure}/{run_folder.unit_name(number)}.parquet", checked_bytes(some))


def read_old_shards(folder: Folder) -> list[OldShard]:
    """The shards of the set that a run adds to, in the order of their numbers; [] where it adds to none."""
    part = part_of(folder)
    if part is None:
        return []
    table = run_folder.read_inventory(part, ["uri"])
    keys: defaultdict[str, list[str]] = defaultdict(list)
    basic = runs.read_basic(part, ["key"])["key"].to_pylist()
    for uri, key in zip(table["uri"].to_pylist(), basic, strict=True):
        keys[uri.rpartition("#")[0].rpartition("/")[2]].append(key)
    entries: list[ShardEntry] = read_entries(part)
    return [OldShard(entry, keys[entry["name"]]) for entry in entries]


def read_entries(part: Folder) -> list[ShardEntry]:
    """The shards of the manifest of the set. InputError where the copy of it is damaged."""
    about: Mapping[str, Any] = run_folder.read_claim(part, PUBLISHED)
    entries: list[ShardEntry] = about["shards"]
    return entries


def read_originals(folder: Folder) -> dict[str, str]:
    """The key that an image of the base has in the shards, by the one that it had before --strip."""
    part = part_of(folder)
    if part is None:
        return {}
    rows = part.read_table(ORIGINALS).to_pylist()
    return {row["key"]: row["packed_key"] for row in rows}
