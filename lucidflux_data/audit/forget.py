"""Sets of images over time: what changed between two runs, and taking images out again."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import report
from lucidflux_data.audit.forgotten import find_left, holds_any
from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.growth.part import read_originals
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.ledger import REPEATING
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.shard import IndexRow, Manifest, TarWriter
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import ROWS_IN_GROUP, parse_json, table_chunks
from lucidflux_data.storage.journal import NEW, Rewriting
from lucidflux_data.storage.lease import hold
from lucidflux_data.storage.run_folder import FORGOTTEN, IMAGE_NAME, forgotten_keys

PLACE = "shards"
REPORT = "report.html"
PAGES = ("view.html", "explore.html", REPORT)  # made from the images, with their pixels


class Forgotten(TypedDict):
    """`forgotten`: how many images; `shards_rewritten`: the names of the tars that held them."""

    forgotten: int
    shards_rewritten: list[str]


def forget(folder: Folder, wanted: Sequence[str]) -> Forgotten:
    """Takes images (sha256 or key) out of a packed run: they go on the list and the manifest is withdrawn; run.json,
    ledger, the shards that hold them and the manifest are written aside and change together (storage/journal.py); then
    the report, whose old one went first.

    They go on the run's own opt-out list, so that no later `select` brings them back. Other shards keep their bytes.
    Killed at any point and repeated, with these or other images, it ends in the bytes of a quiet run: what was listed
    before is taken out as well. InputError where nothing of that name was ever a candidate; VerificationError where
    there is no manifest, or a shard holds other bytes than its index says.
    """
    with hold(folder, 0.0):
        return _forget(folder, wanted)


def _forget(folder: Folder, wanted: Sequence[str]) -> Forgotten:
    ledger = runs.read_ledger(folder)
    packed = stripping.packed_keys(folder)
    sources = {new: old for old, new in packed.items()}
    originals = read_originals(folder)
    unpacked = [item for item in wanted if item[:20] in originals]
    wanted = [originals.get(item[:20], sources.get(item[:20], item)) for item in wanted]
    named = _named(ledger, wanted)
    known = {*ledger.filter(named)["sha256"].to_pylist(), *ledger.filter(named)["key"].to_pylist()}
    unknown = [item for item in wanted if item not in known]
    if unknown:
        raise InputError(f"{unknown[0]} is the sha256 or key of no candidate of {folder}")
    manifest = _read_whole_manifest(folder)
    keys = {packed.get(key, key) for key in ledger.filter(named)["key"].to_pylist()}
    same = {old for old, new in packed.items() if new in keys}  # that differ in removed tags alone
    _start(folder, manifest, [*wanted, *unpacked, *keys, *same])
    change = Rewriting(folder, shards.known_hashes(folder))
    change.put(run_folder.RUN_FILE, _run_with_list(folder))
    sha256 = _put_ledger(change, ledger)
    touched = [name for name in _names(manifest) if _rewrite_shard(change, name)]
    _put_manifest(change, manifest, manifest["digests"] | {"ledger": sha256}, touched)
    change.commit()
    folder.publish(REPORT, report.make_report(folder))
    folder.sweep()
    return {"forgotten": len(keys), "shards_rewritten": [f"{name}.tar" for name in touched]}


def forget_pairs(folder: Folder, wanted: Sequence[str]) -> Forgotten:
    """Takes all pairs of images (sha256 or key) out of a folder of pairs. They go on its own list, so that neither a
    repeated `synthesize` nor `verify --repair` makes them again; other shards keep their bytes. It can be killed and
    repeated as `forget` can.

    InputError where nothing of that name was ever a source image of these pairs. VerificationError as of `forget`.
    """
    with hold(folder, 0.0):
        return _forget_pairs(folder, wanted)


def _forget_pairs(folder: Folder, wanted: Sequence[str]) -> Forgotten:
    known = set(pairs_run.read_inputs(folder, pairs_run.read_config(folder))["key"].to_pylist())
    unknown = [item for item in wanted if not IMAGE_NAME.fullmatch(item) or item[:20] not in known]
    if unknown:
        raise InputError(f"{unknown[0]} is the sha256 or key of no source image of {folder}")
    images = {item[:20] for item in wanted}
    manifest = _read_whole_manifest(folder)
    _start(folder, manifest, images)
    change = Rewriting(folder, shards.known_hashes(folder))
    touched = [name for name in _names(manifest) if _rewrite_shard(change, name)]
    _put_manifest(change, manifest, manifest["digests"], touched, run_folder.describe_forgotten(folder))
    change.commit()
    folder.sweep()
    return {"forgotten": len(images), "shards_rewritten": [f"{name}.tar" for name in touched]}


def is_half_done(folder: Folder) -> bool:
    """Whether the manifest says that a `forget` is not through with the folder."""
    if not folder.exists(shards.MANIFEST):
        return False
    try:
        return bool(shards.read_manifest(folder, halfway=True).get(shards.FORGETTING))
    except VerificationError:  # for who reads it to tell
        return False


def finish_forgetting(folder: Folder) -> bool:
    """Goes on with a `forget` that was interrupted, as far as the shards are whole. Whether there was one."""
    if not folder.exists(FORGOTTEN) or not folder.exists(shards.MANIFEST):
        return False
    try:
        manifest = shards.read_manifest(folder, halfway=True)
        if not manifest.get(shards.FORGETTING) and not find_left(folder, _names(manifest)):
            return False
    except (InputError, VerificationError):  # a manifest or a ledger that is damaged, of which a repair tells
        return False
    pairs = pairs_run.is_pairs(folder)
    try:
        (forget_pairs if pairs else forget)(folder, [])
    except (InputError, VerificationError):  # a shard that is damaged: for a repair to make again, without the images
        if not pairs:
            folder.publish(run_folder.RUN_FILE, _run_with_list(folder))
    return True


def find_here(folder: Folder, listed: Iterable[str], pairs: bool) -> list[str]:
    """Keys of the candidates of a run, or of the source images of pairs, that a list names by sha256, key or uri."""
    if pairs:
        table = pairs_run.read_inputs(folder, pairs_run.read_config(folder))
    else:
        table = folder.read_table(runs.LEDGER, ["uri", "key"])
    wanted = set(listed)
    keys = {item[:20] for item in wanted if IMAGE_NAME.fullmatch(item)}
    rows = table.select(["uri", "key"]).to_pylist()
    return sorted({row["key"] for row in rows if row["key"] and (row["key"] in keys or row["uri"] in wanted)})


def _named(ledger: pa.Table, listed: Iterable[str]) -> pa.ChunkedArray:
    """bool: the rows of the ledger whose sha256 or key is listed."""
    values = pa.array(listed, pa.string())
    return pc.or_kleene(pc.is_in(ledger["sha256"], values), pc.is_in(ledger["key"], values))


def _names(manifest: Manifest) -> list[str]:
    return [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]


def _read_whole_manifest(folder: Folder) -> Manifest:
    """The manifest, of a half-done `forget` too. VerificationError where a file of a shard is missing."""
    manifest = shards.read_manifest(folder, halfway=True)
    wanted = [file for name in _names(manifest) for file in (f"{name}.tar", shards.index_name(name))]
    missing = sorted(set(wanted) - set(folder.names(PLACE)))
    if missing:
        raise VerificationError(f"{folder}/{PLACE}/{missing[0]} is missing: `lucidflux-data verify --repair` mends it")
    return manifest


def _start(folder: Folder, manifest: Manifest, images: Iterable[str]) -> None:
    """Images go on the list, from where every repeat takes them. Then, until there is a new manifest, the shards are
    nobody's to read. Pages with pixels go before all: whoever meets the list without them need not look for them."""
    folder.sweep()
    for page in PAGES:
        folder.remove(page)
    entries = sorted({*run_folder.read_forgotten(folder), *images})
    folder.publish(FORGOTTEN, ("\n".join(entries) + "\n").encode())
    folder.publish(shards.MANIFEST, shards.seal_manifest(folder, {**manifest, shards.FORGETTING: True}))


def _put_manifest(
    change: Rewriting,
    manifest: Manifest,
    digests: dict[str, str],
    touched: Sequence[str],
    more: Mapping[str, str] | None = None,
) -> None:
    staged = dict.fromkeys(touched, f"{NEW}/{PLACE}")
    made = shards.make_manifest(change.folder, PLACE, _names(manifest), digests, staged)
    renewed = {**manifest, **parse_json(made), **(more or {})}
    renewed.pop(shards.FORGETTING, None)
    change.put(shards.MANIFEST, shards.seal_manifest(change.folder, renewed))


def _run_with_list(folder: Folder) -> bytes:
    """run.json with the run's own opt-out list in force."""
    run = runs.read_run(folder)
    place = folder.path(FORGOTTEN) if folder.is_local else f"{folder.url}/{FORGOTTEN}"
    lists = run["config"]["select"]["opt_out"]
    if place not in lists:
        run["config"]["select"]["opt_out"] = [*lists, place]
    run["inputs"][place] = hashlib.sha256(folder.read(FORGOTTEN)).hexdigest()
    config = FilterConfig.model_validate(run["config"])
    return run_folder.seal(runs.renew_run(run, config, run["inputs"]))


def _put_ledger(change: Rewriting, ledger: pa.Table) -> str:
    """The ledger with all that is on the list opted out; its sha256. Its groups depend on its rows alone, not on how it
    was read: a repeat gives the same bytes."""
    named = _named(ledger, run_folder.read_forgotten(change.folder))
    reason = pc.if_else(named, pa.scalar("opted_out"), ledger["reason"])
    keep = pc.and_(ledger["keep"], pc.invert(named))
    for name, column in (("keep", keep), ("reason", reason)):
        ledger = ledger.set_column(ledger.column_names.index(name), ledger.schema.field(name), column)
    starts = range(0, max(1, ledger.num_rows), ROWS_IN_GROUP)
    groups = (ledger.slice(start, ROWS_IN_GROUP).combine_chunks() for start in starts)
    return change.put(runs.LEDGER, table_chunks(groups, REPEATING))


def _rewrite_shard(change: Rewriting, name: str) -> bool:
    """Writes a shard again without what is on the list: the tar and its index. Whether it held any of it."""
    folder = change.folder
    gone = forgotten_keys(folder)
    if not holds_any(folder, name, gone):
        return False
    index = f"{PLACE}/{shards.index_name(name)}"
    metadata = shards.read_index_metadata(folder, index)
    samples, writer = samples_left(folder, name, gone, metadata), TarWriter()
    for members in samples.values():
        writer.sha256s.append(shards.sample_sha256(members))
    more = {}
    if pair_samples.FAILED in metadata:
        failed: list[pair_samples.FailedImage] = parse_json(metadata[pair_samples.FAILED])
        more[pair_samples.FAILED] = json.dumps([entry for entry in failed if entry["key"] not in gone])
    change.put(f"{PLACE}/{name}.tar", writer.chunks(samples.items()))
    change.put(index, writer.index_bytes(metadata["plan"], more))
    return True


def samples_left(
    folder: Folder, name: str, gone: frozenset[str], metadata: Mapping[str, str]
) -> dict[str, dict[str, bytes]]:
    """The samples of a shard that are not `gone`: key -> {extension: bytes}, in key order.

    Members are found by the headers of the tar itself, which is a newer one than the index where a forget of before 0.3
    was interrupted between the two. Each must have the size and crc32, each sample the sha256, that the index says, and
    none may be missing but those that are gone. Raises VerificationError.
    """
    tar = folder.read(f"{PLACE}/{name}.tar")
    rows: list[IndexRow] = folder.read_table(f"{PLACE}/{shards.index_name(name)}").to_pylist()
    said = {row["member"]: row for row in rows}
    other = f"{PLACE}/{name}.tar of {folder} is not what its index says: `lucidflux-data verify --repair` mends it"
    try:
        places = shards.tar_members(tar)
    except tarfile.TarError:
        raise VerificationError(other) from None
    left = [member for member, row in said.items() if row["key"][:20] not in gone]
    keys, hashes = sorted({row["key"] for row in rows}), metadata.get("sha256s", "").split()
    if not places.keys() <= said.keys() or not places.keys() >= set(left) or len(keys) != len(hashes):
        raise VerificationError(other)
    samples: dict[str, dict[str, bytes]] = {}
    for member, (offset, size) in places.items():
        row = said[member]
        if size != row["size"] or zlib.crc32(memoryview(tar)[offset : offset + size]) != row["crc32"]:
            raise VerificationError(other)
    for member in left:
        row, (offset, size) = said[member], places[member]
        samples.setdefault(row["key"], {})[member.removeprefix(f"{row['key']}.")] = tar[offset : offset + size]
    known = dict(zip(keys, hashes, strict=True))
    if any(shards.sample_sha256(members) != known[key] for key, members in samples.items()):
        raise VerificationError(other)
    return samples
