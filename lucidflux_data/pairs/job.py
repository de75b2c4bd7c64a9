"""The folder of a synthesis job: what was asked, the clean images it takes, the plan of its shards.

PAIRS/run.json                       sources, resolved config, backend, digest
PAIRS/inputs/unit-*.parquet          INPUTS: every candidate once, with the reason of those that are not used
PAIRS/shards/pairs-*.tar, .index.parquet, then manifest.json
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NotRequired, TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucidflux_data.config import digest
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.degradation.config import DegradeConfig
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import probe_in_worker
from lucidflux_data.pairs.config import NEW_ENCODER, PairsConfig, deciding
from lucidflux_data.pairs.pair import check_tiles, has_crop, too_small
from lucidflux_data.pairs.samples import failed_images
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.tiling import COLUMN as TILES
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.shard import Shard
from lucidflux_data.sources.listing import Candidate
from lucidflux_data.sources.reading import read_bytes, read_known
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder, absolute_url, trust_sources
from lucidflux_data.storage.formats import make_portable, to_rows
from lucidflux_data.storage.run_folder import RunFile

KIND = "pairs"
PREFIX = "pairs"
PLACE = "inputs"

INPUTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the bytes inside a tar; -1 outside tars
        pa.field("size", pa.int64(), nullable=False),  # encoded bytes
        pa.field("crc32", pa.uint32()),  # of the bytes, where an index tells
        pa.field("key", pa.string()),
        pa.field("width", pa.int32()),  # pixels, upright
        pa.field("height", pa.int32()),
        pa.field("group", pa.string()),  # near-duplicate group of the filter
        pa.field("licence", pa.string()),  # where the source tells
        pa.field("carried", pa.string()),  # JSON of the columns that the selection carried along
        pa.field("reason", pa.string()),  # a failure of records.FAILURES
        pa.field("detail", pa.string()),
    ]
)


TILED = INPUTS.append(pa.field("good_tiles", pa.string()))  # of a run with rules on tiles: JSON, see pair.read_tiles


class PairsListed(TypedDict):
    """What was listed of sources that are no run: `total` = the candidates + `ignored`; `ignored_by`: these by kind;
    `warnings`: a sentence each."""

    total: int
    ignored: int
    ignored_by: dict[str, int]
    warnings: list[str]


class PairsRun(RunFile):
    """run.json of pairs. `sources`: urls of the clean images; `limit`: of a sample of them; `backend`: the executor;
    `listed`: of sources that are no run, once they are listed."""

    sources: list[str]
    limit: int | None
    backend: str
    listed: NotRequired[PairsListed]  # since 0.4


class CleanRow(TypedDict):
    """Where the bytes of a usable image are, and which they are; see INPUTS."""

    uri: str
    offset: int
    size: int
    crc32: int | None
    key: str
    group: str | None
    good_tiles: NotRequired[str | None]


class PairInput(CleanRow):
    """A row of INPUTS that is usable."""

    source_key: str
    width: int
    height: int
    licence: str | None
    carried: str | None
    reason: str | None
    detail: str | None


class ProbedRow(TypedDict):
    """A row of INPUTS of a listed candidate: what is not known of it is left out."""

    uri: str
    source_key: str
    offset: int
    size: int
    key: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    group: NotRequired[str]
    licence: NotRequired[str]
    good_tiles: NotRequired[str]
    reason: NotRequired[str]
    detail: NotRequired[str]


class PairsSummary(TypedDict):
    """`candidates` = `used` + `rejected` + `failed`, the latter two by reason; `samples`: pairs, `bytes` of all shards;
    `pairs`: the folder; `urls`: see Manifest; `listed` = `candidates` + `ignored`, of sources that are no run."""

    pairs: str
    label: str
    listed: NotRequired[int]
    ignored: NotRequired[int]
    ignored_by: NotRequired[dict[str, int]]
    candidates: int
    used: int
    rejected: dict[str, int]
    failed: dict[str, int]
    samples: int
    bytes: int
    shards: int
    urls: str


# Upper ends of what an encoded HQ takes, in bytes a pixel; shards are planned before a pixel is encoded.
BYTES_A_PIXEL = {"png": 3.0, "jxl": 3.0, "webp": 3.0, "jpeg": 1.5, "ref": 0.0}
LQ_BYTES_A_PIXEL = 3.1
JSON_BYTES = 4096


def make_run(config: PairsConfig, label: str, backend: str, sources: list[str], limit: int | None) -> PairsRun:
    """The content of run.json."""
    asked, decoders = {"sources": sources, "limit": limit, "backend": backend}, runs.made_with()
    return {
        "schema_version": shards.SCHEMA_VERSION,
        "kind": KIND,
        "label": label,
        "decoder_version": decoders["decoder_version"],
        "decoders": decoders["decoders"],
        "sources": sources,
        "limit": limit,
        "backend": backend,
        "config": config.model_dump(),
        "digests": {"pairs": digest({"asked": asked, "config": deciding(config)})},
    }


def start(folder: Folder, run: PairsRun) -> None:
    """Writes run.json, or checks that the one that is there asks for the same. Raises ConfigError.

    Until there are shards, settings may still change: a first try that found no usable image is no reason to move.
    """

    def resume(before: PairsRun) -> bool:
        _check_kind(folder, before)
        if before["digests"] == run["digests"]:
            return False
        same_inputs = before["sources"] == run["sources"] and before["limit"] == run["limit"]
        listed = folder.exists(run_folder.INVENTORY) or folder.names(PLACE)
        if folder.names("shards") or (listed and not same_inputs):
            raise ConfigError(f"{folder} holds other pairs (other sources, settings or backend): choose another --out")
        if "listed" in before and same_inputs:
            run["listed"] = before["listed"]
        return True

    claim(folder, run, "is not empty and holds no pairs", resume)


def is_pairs(folder: Folder) -> bool:
    return folder.exists(run_folder.RUN_FILE) and run_folder.read_about(folder).get("kind") == KIND


def find_encoder(folder: Folder) -> str:
    """What writes the PNG of an HQ in this folder: what it was begun with, in a new one the newest."""
    return read_config(folder).hq_encoder if is_pairs(folder) else NEW_ENCODER


def read(folder: Folder) -> PairsRun:
    """run.json. InputError where the folder holds no pairs."""
    run = run_folder.read_about(folder)
    _check_kind(folder, run)
    found = cast(PairsRun, run)
    run_folder.check_about(folder, run, PairsRun, PairsConfig)
    trust_sources(found["sources"])
    return found


def _check_kind(folder: Folder, run: RunFile) -> None:
    if run.get("kind") != KIND:
        raise InputError(f"{folder} is a run of the filter, not a folder of pairs")


def read_config(folder: Folder) -> PairsConfig:
    return PairsConfig.model_validate(read(folder)["config"])


def inputs_of_run(folder: Folder) -> pa.Table:
    """INPUTS of a packed filter run, from its ledger and the indices of its shards; no image is opened."""
    shards.read_manifest(folder)
    schema = pq.read_schema(pa.BufferReader(folder.read(runs.LEDGER)))
    carry = runs.read_run(folder)["config"]["select"]["carry"]
    wanted = dict.fromkeys(["key", "keep", "source_key", "width", "height", "group", "licence", TILES, *carry])
    ledger = folder.read_table(runs.LEDGER, [name for name in wanted if name in schema.names])
    packed = stripping.packed_keys(folder)
    about: dict[str, dict[str, object]] = {}
    for row in to_rows(ledger.filter(pc.field("keep")).sort_by("key")):
        key = packed.get(row["key"], row["key"])
        about.setdefault(key, row | {"key": key})
    rows = []
    for name in folder.names("shards"):
        if not name.endswith(".index.parquet"):
            continue
        tar = f"{absolute_url(folder.url)}/shards/{name.removesuffix('.index.parquet')}.tar"
        for entry in folder.read_table(f"shards/{name}").to_pylist():
            if entry["member"].endswith(".json"):
                continue
            row = about[entry["key"]]
            told = ("source_key", "width", "height", "group", "licence", "key", TILES)
            known = {name: row.get(name) for name in told}
            carried = make_portable({name: row[name] for name in carry if row.get(name) is not None})
            known["carried"] = json.dumps(carried, sort_keys=True, ensure_ascii=False) if carried else None
            uri = f"{tar}#{entry['member']}"
            rows.append({"uri": uri, **{name: entry[name] for name in ("offset", "size", "crc32")}, **known})
    schema = TILED if TILES in ledger.column_names else INPUTS
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["uri"]), schema)


def probe_row(row: Candidate, decode: DecodeConfig, attempt: int) -> ProbedRow:
    """A row of INPUTS of a listed candidate: key and upright size in pixels, or why it cannot be used. `attempt`: as in
    `probe_in_worker`."""
    known: ProbedRow
    known = {"uri": row["uri"], "source_key": row["source_key"], "offset": row["offset"], "size": row["size"]}
    try:
        data = read_bytes(row["uri"], row["offset"], row["size"], decode.max_file_bytes)
        known["size"], known["key"] = len(data), hashlib.sha256(data).hexdigest()[:20]
        header = probe_in_worker(data, decode, attempt)
    except ImageError as error:
        known["reason"], known["detail"] = error.reason, error.detail
        return known
    known["width"], known["height"] = header.width, header.height
    side = json.loads(row["side"]) if row["side"] else {}
    if isinstance(side, dict) and side.get("group"):
        known["group"] = str(side["group"])
    if isinstance(side, dict) and side.get("licence"):
        known["licence"] = str(side["licence"])
    if isinstance(side, dict) and TILES in side:
        known["good_tiles"] = check_tiles(side[TILES], row["uri"])
    return known


def make_inputs(rows: Sequence[ProbedRow]) -> pa.Table:
    """INPUTS, or TILED where a row has good tiles."""
    return pa.Table.from_pylist(rows, TILED if any(row.get(TILES) for row in rows) else INPUTS)


def read_clean(row: CleanRow, decode: DecodeConfig | None = None) -> bytes:
    """The bytes of a clean image that was listed. ImageError `changed` where they are others now. InputError where they
    are gone, or are others in a shard of ours, which can be mended."""
    sha256 = row["key"] if row["crc32"] is None else None
    size = row["size"] if row["offset"] >= 0 else -1
    most = (decode or DecodeConfig()).max_file_bytes
    try:
        return read_known(row["uri"], row["offset"], size, sha256, row["crc32"], most)
    except ImageError as error:
        if error.reason != "changed":
            raise InputError(f"{row['uri']} was listed but cannot be read: {error.detail}") from None
        if row["crc32"] is not None:
            mend = "`lucidflux-data verify` tells, --repair mends it"
            raise InputError(f"{row['uri']} has changed: it is damaged, or its run was packed again: {mend}") from None
        raise ImageError("changed", f"{row['uri']} has changed since it was listed") from None


def read_inputs(folder: Folder, config: PairsConfig) -> pa.Table:
    """All of inputs/, with every reason. InputError where there is nothing."""
    names = [name for name in folder.names(PLACE) if name.endswith(".parquet")]
    if not names:
        raise InputError(f"{folder} lists no inputs: repeat the command")
    tables = [read_input_unit(folder, name) for name in names]
    return fill_reasons(
        pa.concat_tables(tables, promote_options="default"), config.degrade, run_folder.read_forgotten(folder)
    )


def read_input_unit(folder: Folder, name: str) -> pa.Table:
    """One file below inputs/. InputError where it is damaged, or has other columns than INPUTS."""
    table = folder.read_table(f"{PLACE}/{name}")
    if not set(table.column_names) <= set(TILED.names) or not set(_ALWAYS) <= set(table.column_names):
        raise InputError(f"{folder.path(f'{PLACE}/{name}')} is damaged: `lucidflux-data verify --repair` rebuilds it")
    return table


_ALWAYS = ("uri", "source_key", "offset", "size", "key", "width", "height", "reason", "detail")  # since 0.1


def fill_reasons(table: pa.Table, config: DegradeConfig, forgotten: Iterable[str] = ()) -> pa.Table:
    """INPUTS with `too_small`, `too_few_good_tiles`, `duplicate` and `opted_out` filled in as reasons. The first of
    equal keys stays."""
    seen: set[str] = set()
    out = {item[:20] for item in forgotten}
    reasons = []
    names = ["key", "width", "height", "reason", *([TILES] if TILES in table.column_names else [])]
    for row in table.select(names).to_pylist():
        reason = row["reason"]
        if reason is None and row["key"] in seen:
            reason = "duplicate"
        elif reason is None and too_small(row["width"], row["height"], config):
            reason = "too_small"
        elif reason is None and not has_crop(row["width"], row["height"], row.get(TILES), config):
            reason = "too_few_good_tiles"
        elif reason is None and row["key"] in out:
            reason = "opted_out"
        seen.add(row["key"])
        reasons.append(reason)
    return table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))


def assign_shards(inputs: pa.Table, config: PairsConfig) -> list[Shard[PairInput]]:
    """Shards of whole images, all variants of one together, in key order; sizes from upper bounds, never measured.

    A shard is a unit of work too: of a small set it has as few images as a unit has, so that all cores are busy.
    Images that were forgotten keep their place in the plan, so that other shards stay what they are; see `used`.
    """
    planned = pc.is_null(pc.field("reason")) | (pc.field("reason") == "opted_out")
    rows: list[PairInput] = inputs.filter(planned).sort_by("key").to_pylist()
    degrade = config.degrade
    hq = int(BYTES_A_PIXEL[config.hq.partition(":")[0]] * degrade.size**2)
    lq = int(LQ_BYTES_A_PIXEL * (degrade.size // degrade.scale) ** 2)
    sizes = [hq, lq, JSON_BYTES] * config.variants
    images = min(max(1, config.shards.max_samples // config.variants), run_folder.unit_size(len(rows)))
    return shards.assign_shards(rows, [sizes] * len(rows), PREFIX, images, config.shards.max_bytes)


def list_used(shard: Shard[PairInput]) -> list[PairInput]:
    """The rows of a planned shard that pairs are made of."""
    return [row for row in shard.rows if row["reason"] is None]


def digest_assignment(planned: list[Shard[PairInput]], config: PairsConfig, backend: str) -> str:
    """What a published shard must have been made of to count as done."""
    keys = [[row["key"] for row in shard.rows] for shard in planned]
    tiles = [row.get(TILES) for shard in planned for row in shard.rows]
    within = {"tiles": tiles} if any(tiles) else {}
    return digest({"keys": keys, "config": deciding(config), "backend": backend, **within})


def summary(folder: Folder) -> PairsSummary:
    """Counts in which every candidate is accounted for, and the number of pairs."""
    run, config = read(folder), read_config(folder)
    inputs = read_inputs(folder, config)
    reasons = Counter(reason for reason in inputs["reason"].to_pylist() if reason is not None)
    manifest = shards.read_manifest(folder)
    for entry in manifest["shards"]:
        for row in failed_images(folder, entry["name"]):
            reasons[row["reason"]] += 1
    failed = {name: count for name, count in sorted(reasons.items()) if name in records.FAILURES}
    rejected = {name: count for name, count in sorted(reasons.items()) if name not in records.FAILURES}
    found: PairsSummary = {
        "pairs": str(folder),
        "label": run["label"],
        "candidates": inputs.num_rows,
        "used": inputs.num_rows - sum(reasons.values()),
        "rejected": rejected,
        "failed": failed,
        "samples": manifest["samples"],
        "bytes": manifest["bytes"],
        "shards": len(manifest["shards"]),
        "urls": manifest["urls"],
    }
    listed = run.get("listed")
    if listed is not None:
        found |= {"listed": listed["total"], "ignored": listed["ignored"], "ignored_by": listed["ignored_by"]}
    return found
