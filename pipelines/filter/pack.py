"""Packing: the kept images of a ledger into HQ shards; one task writes one shard and its index."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NotRequired, TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs.encoding import encode
from lucidflux_data.config import digest
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.growth.part import read_old_shards
from lucidflux_data.images import EXTENSION_OF, FLAGS_OTHER_PIXELS, ImageError, decode
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.records import BASE
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.config import ShardConfig
from lucidflux_data.shards.form import is_shard_file
from lucidflux_data.shards.shard import Manifest, Shard, StripCard, TarWriter
from lucidflux_data.shards.stripping import FORMATS, STRIP_VERSION
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage import formats, run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import table_bytes, to_rows
from lucidflux_data.storage.journal import STAGE, Rewriting, settle
from pipelines.execution.counting import counted
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit
from pipelines.filter import grow

PLACE = f"{STAGE}/stripped"


PREFIX = "hq"
NOT_IN_JSON = {"uri", "keep", "rank", "offset", "side", "sha256", "scored_as"}


class ScoredRow(TypedDict):
    """What reading the scored bytes of a kept image takes."""

    uri: str
    key: str  # 20 hex digits of `sha256`
    offset: int  # of the bytes inside a tar; -1 outside tars
    bytes: int  # encoded
    sha256: str  # of the encoded bytes


class KeptRow(ScoredRow):
    """A kept row of the ledger (records.LedgerRow has the other columns). `key`, `bytes` become those in the shard."""

    format: str
    flags: str  # sorted names joined by a comma
    side: str | None  # the json beside it in its source
    scored_as: NotRequired[ScoredRow]  # before --strip
    stripped: NotRequired[list[str]]  # what --strip took out


@dataclass(frozen=True)
class PackShard:
    """Writes one shard into `place`: the tar, then its index."""

    settings: ShardConfig
    limits: DecodeConfig
    place: str
    plan_digest: str

    def __call__(self, unit: Unit[list[KeptRow]]) -> Iterator[File]:
        writer = TarWriter()
        yield f"{self.place}/{unit.name}.tar", writer.chunks(self._samples(unit.payload, writer))
        yield f"{self.place}/{shards.index_name(unit.name)}", writer.index_bytes(self.plan_digest)

    def _samples(self, rows: list[KeptRow], writer: TarWriter) -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in counted(rows):
            data = read_source(row["scored_as"])
            name = EXTENSION_OF[row["format"]]
            record = sample_json(row)
            if "stripped" in row:
                data = strip_image(row["scored_as"]["uri"], data, row["stripped"])
                assert hashlib.sha256(data).hexdigest()[:20] == row["key"], "the same bytes give the same key"
            if self.settings.normalize and needs_normalizing(row):
                data, name = encode(decode(data, self.limits.max_pixels)), "png"
                record = formats.canonical_json(json.loads(record) | {"normalized": True})
            members = {name: data, "json": record}
            writer.sha256s.append(shards.sample_sha256(members))
            yield row["key"], members


def needs_normalizing(row: KeptRow) -> bool:
    return not FLAGS_OTHER_PIXELS.isdisjoint(row["flags"].split(","))


def sample_json(row: KeptRow) -> bytes:
    """The json member: what is known of the image, and the json that stood beside it in its source."""
    known = {name: value for name, value in row.items() if name not in NOT_IN_JSON and value is not None}
    record = formats.make_portable(known)
    record["flags"] = [flag for flag in row["flags"].split(",") if flag]
    if row["side"]:
        record["side"] = formats.make_portable(json.loads(row["side"]))
    return formats.canonical_json(record)


def assign_shards(folder: Folder, settings: ShardConfig, stripped_file: str = stripping.FILE) -> list[Shard[KeptRow]]:
    """The shards of the kept images of the ledger, in the order of the keys that they have in there; those of a base
    that is added to are not among them, and the numbers go on behind its own. `stripped_file`: the file that says what
    stripping makes of the images."""
    old = read_old_shards(folder)
    changes = stripping.read_stripped(folder, stripped_file) if settings.strip else {}
    by_key: dict[str, KeptRow] = {}
    for row in select_packable(kept_rows(folder), settings):
        row["scored_as"] = {
            "uri": row["uri"],
            "key": row["key"],
            "offset": row["offset"],
            "bytes": row["bytes"],
            "sha256": row["sha256"],
        }
        change = changes.get(row["key"])
        if change is not None:
            row["key"], row["bytes"] = change["packed_key"], change["packed_bytes"]
            row["stripped"] = list(settings.strip)
        by_key.setdefault(row["key"], row)  # two that differed in their tags alone are one image now
    rows = [by_key[key] for key in sorted(by_key.keys() - {key for shard in old for key in shard.keys})]
    sizes = [(row["bytes"], len(sample_json(row))) for row in rows]
    return shards.assign_shards(rows, sizes, PREFIX, settings.max_samples, settings.max_bytes, len(old))


def kept_rows(folder: Folder) -> list[KeptRow]:
    """The kept rows of the ledger in the order of their keys, but those of a base: they lie in its shards."""
    packed = pc.field("keep") & pc.coalesce(pc.field("reason") != BASE, True)
    return cast("list[KeptRow]", to_rows(runs.read_ledger(folder, where=packed).sort_by("key")))


def select_packable(kept: list[KeptRow], settings: ShardConfig) -> list[KeptRow]:
    """The kept rows that go into shards: all but those that --strip does not look into and shall drop."""
    if not settings.strip or settings.strip_unsupported != "drop":
        return kept
    return [row for row in kept if row["format"] in FORMATS]


def digest_assignment(folder: Folder, config: FilterConfig) -> str:
    """What the shards of this ledger are made of under these settings."""
    version = {"strip_version": STRIP_VERSION} if config.shards.strip else {}
    base = runs.read_run(folder).get("base")
    on = {"base": base["manifest_sha256"]} if base is not None else {}
    return digest({"ledger": runs.ledger_sha256(folder), **config.pack_part(), **version, **on})


def check_strip(folder: Folder, settings: ShardConfig, repairs: bool = False) -> None:
    """Raises ConfigError where --strip cannot do its work: formats that it does not look into, or shards in the folder
    that another version stripped, or a base with other tags. `repairs`: a ledger that cannot be read is nothing to
    stop at."""
    grow.check_strip_of_base(folder, settings)
    if not settings.strip:
        return
    version = stripping.read_version(folder)
    if version not in (None, STRIP_VERSION):
        raise ConfigError(
            f"{folder} was stripped by version {version} of --strip, and this is version {STRIP_VERSION}: remove its "
            f"manifest.json, {stripping.FILE} and shards/, and pack again"
        )
    try:
        unknown = count_unsupported(kept_rows(folder))
    except InputError:
        if not repairs:
            raise
        unknown = {}  # a damaged ledger, which is made again before anything is packed
    if unknown and settings.strip_unsupported == "refuse":
        counts = ", ".join(f"{count} {name}" for name, count in unknown.items())
        raise ConfigError(
            f"--strip looks into {', '.join(FORMATS)} alone, and the ledger keeps {counts}: "
            "--strip-unsupported keep packs them as they are, drop leaves them out"
        )


def count_unsupported(kept: list[KeptRow]) -> dict[str, int]:
    """Images that --strip does not look into, by format."""
    return dict(sorted(Counter(row["format"] for row in kept if row["format"] not in FORMATS).items()))


def pack(
    folder: Folder,
    config: FilterConfig,
    digests: dict[str, str],
    executor: Executor,
    progress: Progress,
    card: Mapping[str, object],
    before: Manifest | None = None,
) -> Manifest:
    """Writes the shards of the ledger that are not there yet aside; then they, the manifest with `card` in it and the
    file of what was stripped take their places together (storage/journal.py). Returns the manifest. `before`: of this
    very ledger, whose division into shards stays as it is, also where a `forget` made it uneven."""
    settle(folder)
    plan_digest = before["digests"]["plan"] if before else digest_assignment(folder, config)
    ledger_sha256 = runs.ledger_sha256(folder)
    kept = kept_rows(folder) if config.shards.strip else []
    looked_into = [row for row in kept if row["format"] in FORMATS]
    stripped_file = find_stripped(folder, looked_into, config.shards.strip, plan_digest, executor, progress)
    stage = f"{STAGE}/{plan_digest[:16]}"
    old, taken = grow.take_shards(folder, stage, executor, progress)
    planned = assign_shards(folder, config.shards, stripped_file)
    if before is not None:
        planned = _divide_as(planned, before)
    lacking = _incomplete(folder, "shards", planned, plan_digest)
    todo = _incomplete(folder, stage, lacking, plan_digest)
    units = [Unit(shard.name, len(shard.rows), shard.rows) for shard in todo]
    with progress.phase("pack", sum(unit.size for unit in units), 0) as advance:
        for unit in run(executor, "pack", units, PackShard(config.shards, config.decode, stage, plan_digest), folder):
            advance(unit.size)
    made_of = before["digests"] if before else {**digests, "plan": plan_digest, "ledger": ledger_sha256}
    names = [*old, *(shard.name for shard in planned)]
    staged = dict.fromkeys([*taken, *(shard.name for shard in lacking)], stage)
    manifest = shards.make_manifest(folder, "shards", names, made_of, staged)
    if config.shards.strip:
        card = {**card, "stripped": _strip_card(folder, config.shards, count_unsupported(kept), stripped_file)}
    content = {**json.loads(manifest), **card}
    _put_in_place(
        folder, names, staged, stripped_file if config.shards.strip else None, shards.seal_manifest(folder, content)
    )
    del content[run_folder.SEAL]
    return cast(Manifest, content)


def _divide_as(planned: list[Shard[KeptRow]], before: Manifest) -> list[Shard[KeptRow]]:
    rows = [row for shard in planned for row in shard.rows]
    ends = list(accumulate(entry["samples"] for entry in before["shards"]))
    return [Shard(PREFIX, n, rows[start:end]) for n, (start, end) in enumerate(pairwise([0, *ends]))]


def _put_in_place(
    folder: Folder, names: list[str], staged: dict[str, str], stripped_file: str | None, manifest: bytes
) -> None:
    """The staged shards and what is said of them become the set; shards of before go, a user's own files stay. `names`:
    of all its shards; `stripped_file`: the file of what was stripped, None where nothing is."""
    change = Rewriting(folder, shards.known_hashes(folder))
    for name, stage in staged.items():
        shards.move_shard(change, stage, name)
    for name in sorted(set(filter(is_shard_file, folder.names("shards"))) - _files(names)):
        change.remove(f"shards/{name}")
    if stripped_file is None and folder.exists(stripping.FILE):
        change.remove(stripping.FILE)
    elif stripped_file not in (None, stripping.FILE):
        change.move(stripped_file, stripping.FILE, hashlib.sha256(folder.read(stripped_file)).hexdigest())
    if change.changes or not folder.exists(shards.MANIFEST) or folder.read(shards.MANIFEST) != manifest:
        change.put(shards.MANIFEST, manifest)
        change.commit()
    folder.remove(STAGE)
    if not names and not folder.names("shards"):
        folder.remove("shards")


def _incomplete(folder: Folder, place: str, planned: list[Shard[KeptRow]], plan_digest: str) -> list[Shard[KeptRow]]:
    names = set(folder.names(place))
    return [shard for shard in planned if not shards.is_complete(folder, place, shard.name, names, plan_digest)]


def _strip_card(folder: Folder, settings: ShardConfig, unknown: dict[str, int], stripped_file: str) -> StripCard:
    """What the manifest says of stripping; images and not_looked_into are counts of the kept rows of the ledger."""
    return {
        "version": STRIP_VERSION,
        "tags": list(settings.strip),
        "images": len(stripping.read_stripped(folder, stripped_file)),
        "not_looked_into": unknown,
        "unsupported": settings.strip_unsupported,
        "sha256": hashlib.sha256(folder.read(stripped_file)).hexdigest(),
    }


def _files(names: list[str]) -> set[str]:
    return {file for name in names for file in (f"{name}.tar", shards.index_name(name))}


def read_source(row: ScoredRow) -> bytes:
    """The bytes that were scored. InputError where they are gone, or are others now."""
    try:
        return read_known(row["uri"], row["offset"], row["bytes"] if row["offset"] >= 0 else -1, row["sha256"])
    except ImageError as error:
        if error.reason == "changed":
            raise InputError(f"{row['uri']} has changed since it was scored: score into a new run") from None
        raise InputError(f"{row['uri']} was scored but cannot be packed: {error.detail}") from None


def strip_image(uri: str, data: bytes, what: Collection[str]) -> bytes:
    """`data` of `uri` with what may stay alone. InputError where its structure cannot be followed."""
    try:
        return stripping.strip(data, what)
    except ImageError as error:
        raise InputError(f"{uri} cannot be stripped: {error.detail}") from None


@dataclass(frozen=True)
class StripUnit:
    """The rows of stripped.parquet for the kept images of a unit."""

    what: tuple[str, ...]
    place: str

    def __call__(self, unit: Unit[list[KeptRow]]) -> Iterator[File]:
        rows = []
        for row in counted(unit.payload):
            data = read_source(row)
            left = strip_image(row["uri"], data, self.what)
            if left != data:
                key = hashlib.sha256(left).hexdigest()[:20]
                rows.append({"key": row["key"], "packed_key": key, "packed_bytes": len(left)})
        yield f"{self.place}/{unit.name}.parquet", table_bytes(pa.Table.from_pylist(rows, stripping.SCHEMA))


def find_stripped(
    folder: Folder, kept: list[KeptRow], what: tuple[str, ...], made_of: str, executor: Executor, bar: Progress
) -> str:
    """The file that says what stripping makes of the images: the one that is there, or one in the stage. `kept`: ledger
    rows in key order, of formats that are looked into; `made_of`: a digest of the ledger and the tags."""
    place = f"{PLACE}-{made_of[:16]}"
    if not what or stripping.is_of(folder, made_of):
        return stripping.FILE
    size = run_folder.unit_size(len(kept))
    there = set(folder.names(place))
    slices = [kept[start : start + size] for start in range(0, len(kept), size)]
    units = [Unit(run_folder.unit_name(number), len(rows), rows) for number, rows in enumerate(slices)]
    todo = [unit for unit in units if f"{unit.name}.parquet" not in there]
    with bar.phase("strip", sum(unit.size for unit in todo), 0) as advance:
        for unit in run(executor, "strip", todo, StripUnit(what, place), folder):
            advance(unit.size)
    tables = [folder.read_table(f"{place}/{unit.name}.parquet") for unit in units]
    table = pa.concat_tables([stripping.SCHEMA.empty_table(), *tables])
    about = {"made_of": made_of, stripping.VERSION: str(STRIP_VERSION)}
    stripped_file = f"{STAGE}/{stripping.FILE}"
    folder.publish(stripped_file, table_bytes(table.replace_schema_metadata(about)))
    return stripped_file
