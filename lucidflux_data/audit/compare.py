"""What changed between two runs: images added and removed by reason, and how the scores moved."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import zip_longest
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.growth.part import read_originals
from lucidflux_data.numerics import largest_gap
from lucidflux_data.selection import run as runs
from lucidflux_data.storage.folder import Folder

NO_HASHES = np.empty((0, 2), "S16")


class Comparison(TypedDict):
    """`kept`: images of the first run, of the second and of both; `added`, `removed`: by reason; `changed`: images;
    `scores`: means and the Kolmogorov-Smirnov distance (`ks`) by the name of the score."""

    kept: dict[str, int]
    added: dict[str, int]
    removed: dict[str, int]
    changed: int
    scores: dict[str, dict[str, float]]


def compare(first: Folder, second: Folder) -> Comparison:
    """What the second run's set has more, less and other than the first's, by reason, and how the scores moved.

    added: kept in the second only, by why the first does not have it; removed: the other way round; changed: the same
    uri with other bytes. Scores are compared over the kept images: means, and the Kolmogorov-Smirnov distance.
    """
    kept_before, kept_after = _kept_keys(first), _by_their_first_names(second, first, _kept_keys(second))
    both = pc.is_in(kept_after, kept_before)
    shift: dict[str, dict[str, float]] = {}
    for name in sorted(_score_names(first) & _score_names(second)):
        moved = _shift(first, second, name)
        shift |= {name: moved} if moved else {}
    return {
        "kept": {"first": len(kept_before), "second": len(kept_after), "both": pc.sum(both).as_py() or 0},
        "added": _by_reason(kept_after.filter(pc.invert(both)), first),
        "removed": _by_reason(kept_before.filter(pc.invert(pc.is_in(kept_before, kept_after))), second),
        "changed": _count_changed(first, second),
        "scores": shift,
    }


def _kept_keys(folder: Folder) -> pa.Array:
    """Each once."""
    return pc.unique(runs.read_ledger(folder, ["key", "keep"], pc.field("keep"))["key"])


def _by_their_first_names(folder: Folder, before: Folder, keys: pa.Array) -> pa.Array:
    """`keys` of a set that adds to one which was stripped: as the ledger of that one names its images."""
    names = {packed: key for key, packed in read_originals(folder).items()}
    if not names:
        return keys
    first = pa.array(list(names.values()), pa.string())
    groups = runs.read_ledger_groups(before, ["key"])
    known = {key for group in groups for key in group["key"].filter(pc.is_in(group["key"], first)).to_pylist()}
    return pc.unique(
        pa.array([names[key] if names.get(key) in known else key for key in keys.to_pylist()], pa.string())
    )


def _score_names(folder: Folder) -> set[str]:
    return {field.name for field in runs.ledger_schema(folder) if pa.types.is_floating(field.type)}


def _by_reason(keys: pa.Array, other: Folder) -> dict[str, int]:
    """Why the other ledger does not keep these keys."""
    reasons: dict[str, str | None] = {}
    for group in runs.read_ledger_groups(other, ["key", "reason"]):
        mine = group.filter(pc.is_in(group["key"], keys)).to_pylist()
        reasons |= {row["key"]: row["reason"] for row in mine if row["reason"] != "duplicate"}
    return dict(sorted(Counter(reasons.get(key) or "not_a_candidate" for key in keys.to_pylist()).items()))


def _count_changed(first: Folder, second: Folder) -> int:
    """Candidates of both by their uri that were read in both, as other bytes.

    Where both ledgers list the same uris in the same places, which is the rule, they are compared as they stand; else
    by 128 bits of each uri's hash, since the uris of both do not fit into memory.
    """
    changed, columns = 0, ["uri", "sha256"]
    left, right = [NO_HASHES], [NO_HASHES]
    pairs = zip_longest(runs.read_ledger_groups(first, columns), runs.read_ledger_groups(second, columns))
    for before, after in pairs:
        if before is not None and after is not None and before["uri"].equals(after["uri"]):
            changed += pc.sum(pc.not_equal(before["sha256"], after["sha256"])).as_py() or 0
            continue
        left += [] if before is None else [_hash_rows(before)]
        right += [] if after is None else [_hash_rows(after)]
    known, wanted = np.concatenate(left), np.concatenate(right)
    _, of_known, of_wanted = np.intersect1d(known[:, 0], wanted[:, 0], return_indices=True)
    return changed + int(np.sum(known[of_known, 1] != wanted[of_wanted, 1]))


def _hash_rows(rows: pa.Table) -> np.ndarray:
    """S16 (m, 2): 128 bits of the uri and of the bytes of those that were read."""
    there = rows.filter(pc.is_valid(pc.field("sha256")))
    uris = [hashlib.blake2b(uri.encode(), digest_size=16).digest() for uri in there["uri"].to_pylist()]
    read = [bytes.fromhex(sha256[:32]) for sha256 in there["sha256"].to_pylist()]
    return np.array([uris, read], "S16").T if uris else NO_HASHES


def _read_kept(folder: Folder, name: str) -> np.ndarray:
    """float64 (n,): the scores of the images that a run keeps, ascending."""
    kept: np.ndarray = pc.drop_null(runs.read_ledger(folder, [name, "keep"], pc.field("keep"))[name]).to_numpy()
    return np.sort(kept)


def _shift(before: Folder, after: Folder, name: str) -> dict[str, float] | None:
    first, second = (_read_kept(folder, name) for folder in (before, after))
    if len(first) == 0 or len(second) == 0:
        return None
    return {
        "mean_first": float(first.mean()),
        "mean_second": float(second.mean()),
        "ks": largest_gap(first, second),
    }
