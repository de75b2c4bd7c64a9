"""Sets of images over time: what changed between two runs, and taking images out again."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data import pairs_run, runs, shards, stripped
from lucidflux_data.config import FilterConfig
from lucidflux_data.errors import InputError
from lucidflux_data.ledger import REPEATING
from lucidflux_data.runs import FORGOTTEN
from lucidflux_data.shards import TarWriter
from lucidflux_data.storage import Folder, table_chunks

PLACE = "shards"
PAGES = ("view.html",)  # made from the pairs, with their pixels
IMAGE_NAME = re.compile(r"[0-9a-f]{20}|[0-9a-f]{64}")


def compare(first: Folder, second: Folder) -> dict[str, Any]:
    """What the second run's set has more, less and other than the first's, by reason, and how the scores moved.

    added: kept in the second only, by why the first does not have it; removed: the other way round; changed: the same
    uri with other bytes. Scores are compared over the kept images: means, and the Kolmogorov-Smirnov distance.
    """
    before, after = (runs.read_ledger(folder) for folder in (first, second))
    kept_before, kept_after = (_kept_keys(table) for table in (before, after))
    shas = {row["uri"]: row["sha256"] for row in before.select(["uri", "sha256"]).to_pylist()}
    changed = sum(
        shas.get(row["uri"]) not in (None, row["sha256"])
        for row in after.select(["uri", "sha256"]).to_pylist()
        if row["sha256"]
    )
    shift = {}
    for name in sorted(set(before.column_names) & set(after.column_names)):
        if pa.types.is_floating(before.schema.field(name).type):
            shift[name] = _shift(before, after, name)
    return {
        "kept": {"first": len(kept_before), "second": len(kept_after), "both": len(kept_before & kept_after)},
        "added": _by_reason(kept_after - kept_before, before),
        "removed": _by_reason(kept_before - kept_after, after),
        "changed": changed,
        "scores": {name: moved for name, moved in shift.items() if moved},
    }


def _kept_keys(ledger: pa.Table) -> set[str]:
    return set(ledger.filter(pc.field("keep"))["key"].to_pylist())


def _by_reason(keys: set[str], other: pa.Table) -> dict[str, int]:
    """Why the other ledger does not keep these keys."""
    reasons = {
        row["key"]: row["reason"]
        for row in other.select(["key", "reason"]).to_pylist()
        if row["key"] in keys and row["reason"] != "duplicate"
    }
    return dict(sorted(Counter(reasons.get(key) or "not_a_candidate" for key in keys).items()))


def _shift(before: pa.Table, after: pa.Table, name: str) -> dict[str, float] | None:
    first, second = (
        np.sort(pc.drop_null(table.filter(pc.field("keep"))[name]).to_numpy()) for table in (before, after)
    )
    if len(first) == 0 or len(second) == 0:
        return None
    points = np.concatenate([first, second])
    below = [np.searchsorted(values, points, "right") / len(values) for values in (first, second)]
    return {
        "mean_first": float(first.mean()),
        "mean_second": float(second.mean()),
        "ks": float(np.abs(below[0] - below[1]).max()),
    }


def forget(folder: Folder, wanted: list[str]) -> dict[str, Any]:
    """Takes images (sha256 or key) out of a packed run: ledger, the shards that hold them, manifest, in that order.

    They go on the run's own opt-out list, so that no later `select` brings them back. Other shards keep their bytes.
    InputError where nothing of that name was ever a candidate.
    """
    ledger = runs.read_ledger(folder)
    packed = stripped.packed_keys(folder)
    sources = {new: old for old, new in packed.items()}
    wanted = [sources.get(item[:20], item) for item in wanted]
    listed = pa.array(wanted, pa.string())
    named = pc.or_kleene(pc.is_in(ledger["sha256"], listed), pc.is_in(ledger["key"], listed))
    known = {*ledger.filter(named)["sha256"].to_pylist(), *ledger.filter(named)["key"].to_pylist()}
    unknown = [item for item in wanted if item not in known]
    if unknown:
        raise InputError(f"{unknown[0]} is the sha256 or key of no candidate of {folder}")
    keys = {packed.get(key, key) for key in ledger.filter(named)["key"].to_pylist()}
    same = {old for old, new in packed.items() if new in keys}  # that differ in removed tags alone
    _remember(folder, [*wanted, *keys, *same])
    named = pc.or_kleene(named, pc.is_in(ledger["key"], pa.array([*keys, *same], pa.string())))
    reason = pc.if_else(named, pa.scalar("opted_out"), ledger["reason"])
    keep = pc.and_(ledger["keep"], pc.invert(named))
    for name, column in (("keep", keep), ("reason", reason)):
        ledger = ledger.set_column(ledger.column_names.index(name), ledger.schema.field(name), column)
    folder.publish(runs.LEDGER, table_chunks([ledger], REPEATING))
    touched = _rewrite_shards(folder, keys)
    return {"forgotten": len(keys), "shards_rewritten": touched}


def forget_pairs(folder: Folder, wanted: list[str]) -> dict[str, Any]:
    """Takes all pairs of images (sha256 or key) out of a folder of pairs. They go on its own list, so that neither a
    repeated `synthesize` nor `verify --repair` makes them again; other shards keep their bytes.

    InputError where nothing of that name was ever a source image of these pairs.
    """
    known = set(pairs_run.read_inputs(folder, pairs_run.read_config(folder))["key"].to_pylist())
    unknown = [item for item in wanted if not IMAGE_NAME.fullmatch(item) or item[:20] not in known]
    if unknown:
        raise InputError(f"{unknown[0]} is the sha256 or key of no source image of {folder}")
    images = {item[:20] for item in wanted}
    _add_to_list(folder, images)
    manifest = shards.read_manifest(folder)
    names = [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]
    touched = []
    for name in names:
        index = folder.read_table(f"{PLACE}/{shards.index_name(name)}")
        failed = pairs_run.failed_images(folder, f"{name}.tar")
        left = [entry for entry in failed if entry["key"] not in images]
        samples = {key for key in index["key"].to_pylist() if key[:20] in images}
        if samples or len(left) < len(failed):
            _rewrite(folder, name, index, samples, {pairs_run.FAILED: json.dumps(left)})
            touched.append(f"{name}.tar")
    renewed = manifest | json.loads(shards.make_manifest(folder, PLACE, names, manifest["digests"]))
    folder.publish(shards.MANIFEST, shards.canonical_json(renewed))
    for page in PAGES:
        folder.remove(page)
    return {"forgotten": len(images), "shards_rewritten": touched}


def found_here(folder: Folder, listed: Iterable[str], pairs: bool) -> list[str]:
    """Keys of the candidates of a run, or of the source images of pairs, that a list names by sha256, key or uri."""
    if pairs:
        table = pairs_run.read_inputs(folder, pairs_run.read_config(folder))
    else:
        table = folder.read_table(runs.LEDGER, ["uri", "key"])
    wanted = set(listed)
    keys = {item[:20] for item in wanted if IMAGE_NAME.fullmatch(item)}
    rows = table.select(["uri", "key"]).to_pylist()
    return sorted({row["key"] for row in rows if row["key"] and (row["key"] in keys or row["uri"] in wanted)})


def _add_to_list(folder: Folder, wanted: Iterable[str]) -> None:
    entries = sorted({*runs.read_forgotten(folder), *wanted})
    folder.publish(FORGOTTEN, ("\n".join(entries) + "\n").encode())


def _remember(folder: Folder, wanted: list[str]) -> None:
    """Adds to the run's opt-out list, and the list to the run's config."""
    _add_to_list(folder, wanted)
    run = runs.read_run(folder)
    place = folder.path(FORGOTTEN) if folder.is_local else f"{folder.url}/{FORGOTTEN}"
    lists = run["config"]["select"]["opt_out"]
    if place not in lists:
        run["config"]["select"]["opt_out"] = [*lists, place]
    run["inputs"][place] = hashlib.sha256(folder.read(FORGOTTEN)).hexdigest()
    config = FilterConfig.model_validate(run["config"])
    updated = runs.renew_run(run, config, run["inputs"])
    folder.publish(runs.RUN_FILE, shards.canonical_json(updated))


def _rewrite_shards(folder: Folder, keys: set[str]) -> list[str]:
    manifest = shards.read_manifest(folder)
    names = [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]
    touched = []
    for name in names:
        index = folder.read_table(f"{PLACE}/{shards.index_name(name)}")
        if keys & set(index["key"].to_pylist()):
            _rewrite(folder, name, index, keys)
            touched.append(f"{name}.tar")
    digests = manifest["digests"] | {"ledger": runs.ledger_sha256(folder)}
    renewed = manifest | json.loads(shards.make_manifest(folder, PLACE, names, digests))
    folder.publish(shards.MANIFEST, shards.canonical_json(renewed))
    return touched


def _rewrite(folder: Folder, name: str, index: pa.Table, keys: set[str], more: Mapping[str, str] | None = None) -> None:
    """A shard without some of its samples: the tar, then its index, with `more` facts in its metadata."""
    metadata = shards.read_index_metadata(folder, f"{PLACE}/{shards.index_name(name)}")
    tar = folder.read(f"{PLACE}/{name}.tar")
    all_keys = sorted(set(index["key"].to_pylist()))
    hashes = dict(zip(all_keys, metadata["sha256s"].split("\n"), strict=True))
    left = [key for key in all_keys if key not in keys]
    writer = TarWriter(sha256s=[hashes[key] for key in left])
    by_key: dict[str, dict[str, bytes]] = {key: {} for key in left}
    for row in index.to_pylist():
        if row["key"] in by_key:
            extension = row["member"].removeprefix(f"{row['key']}.")
            by_key[row["key"]][extension] = tar[row["offset"] : row["offset"] + row["size"]]

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield from by_key.items()

    folder.publish(f"{PLACE}/{name}.tar", b"".join(writer.chunks(samples())))
    folder.publish(f"{PLACE}/{shards.index_name(name)}", writer.index_bytes(metadata["plan"], more))
