"""Why an image is, or is not, in the set: every rule beside its limit, its rank, and where it lies in the shards."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from typing import TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.columns import read_list
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.expression import columns_of, matches
from lucidflux_data.selection.rules import HISTORY, basic_limits, history_limits, number_kept
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.sources.uris import escape_url
from lucidflux_data.storage.folder import Folder, absolute_url

MEMBER = re.compile(r"(?:.*[/#])?([0-9a-f]{20})(?:\.[A-Za-z0-9_.]+)?")  # of a shard: KEY.jpg, hq-000000.tar#KEY.jpg
LOOKED_THROUGH = 200_000  # names that are compared with one that is not there


class Check(TypedDict):
    """A rule in force and what the image has for it. `passes`: None where there is no `value` to say; `distance`: of
    the value inside its limit, negative outside; `limit`: of the setting, a number, or what a list or --where says."""

    rule: str
    value: float | None
    limit: float | str
    passes: bool | None
    distance: float | None


class Standing(TypedDict):
    """The image among those that were scored: `rank` 1 is the best of `of`, of which the cut keeps `cut`, the last with
    `cut_score`; `distance`: of its score inside the cut, negative outside. None where there is no score."""

    metric: str
    score: float | None
    rank: int | None
    of: int
    cut: int
    cut_score: float | None
    distance: float | None


class Place(TypedDict):
    """Where the image lies in the set: `offset` and `size` of its bytes in the tar."""

    shard: str
    member: str
    offset: int
    size: int


class ExplainedImage(TypedDict):
    """`fails`: the rules that speak against it, whichever is its reason; `same_bytes`: uris of other candidates."""

    row: records.LedgerRow
    checks: list[Check]
    fails: list[str]
    standing: Standing | None
    place: Place | None
    same_bytes: list[str]


def explain(folder: Folder, wanted: str) -> list[ExplainedImage]:
    """What is known of the candidates that `wanted` names: a uri, a path, a key, a sha256, a file's name in its source,
    or a member of a shard. InputError where it is none of them, with the nearest names."""
    rows = _find_rows(folder, wanted)
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    found = []
    for number in range(rows.num_rows):
        one = rows.slice(number, 1)
        row = cast(records.LedgerRow, one.to_pylist()[0])
        checks = [*_limit_checks(folder, row, config), *_list_checks(one, row, config)]
        image: ExplainedImage = {
            "row": row,
            "checks": checks,
            "fails": [check["rule"] for check in checks if check["passes"] is False],
            "standing": _find_standing(folder, one, config),
            "place": _find_place(folder, row["key"]) if row["keep"] and row["key"] else None,
            "same_bytes": _same_bytes(folder, row),
        }
        standing = image["standing"]
        if standing and (standing["rank"] or 0) > standing["cut"]:
            image["fails"].append("cut")
        found.append(image)
    return found


def _find_rows(folder: Folder, wanted: str) -> pa.Table:
    packed = {new: old for old, new in stripping.packed_keys(folder).items()}
    member = MEMBER.fullmatch(wanted)
    key = packed.get(member[1], member[1]) if member else wanted
    path = escape_url(absolute_url(os.path.expanduser(wanted)))
    real = path if "://" in wanted else escape_url(absolute_url(os.path.realpath(os.path.expanduser(wanted))))
    asked = (("uri", wanted), ("key", packed.get(wanted, wanted)), ("source_key", wanted))
    for column, value in (*asked, ("uri", path), ("uri", real), ("sha256", wanted), ("key", key)):
        rows = runs.read_ledger(folder, where=pc.field(column) == value)
        if rows.num_rows:
            return rows
    near = _near_names(folder, wanted)
    also = f": did you mean {' or '.join(near)}?" if near else ""
    raise InputError(
        f"{wanted} is no uri, key or file name of a candidate of {folder}, nor a path or a member of its shards{also}"
    )


def _near_names(folder: Folder, wanted: str) -> list[str]:
    """Up to three names in the source: those that end so, else those that are written nearly so."""
    last = wanted.rstrip("/").rpartition("/")[2]
    names = runs.read_ledger(folder, ["source_key"])["source_key"].slice(0, LOOKED_THROUGH)
    ending = names.filter(pc.match_substring_regex(names, f"(^|/){re.escape(last)}$", ignore_case=True))
    return ending[:3].to_pylist() or difflib.get_close_matches(last, names.to_pylist(), n=3, cutoff=0.75)


def _limit_checks(folder: Folder, row: records.LedgerRow, config: FilterConfig) -> Iterator[Check]:
    """Of every rule that compares a number with a limit."""
    sides = (row["width"], row["height"])
    values: dict[str, float | None] = {
        "laplacian_variance": row["laplacian_variance"],
        "flat_fraction": row["flat_fraction"],
        "min_side": None if sides[0] is None or sides[1] is None else min(sides[0], sides[1]),
    }
    limits = [*basic_limits(config.rules), *history_limits(config.rules)]
    if any(limit.column not in values for limit in limits):
        values |= _read_history(folder, row["uri"])
    for limit in limits:
        value = values.get(limit.column)
        inside = None if value is None else (value - limit.value) * (-1 if limit.is_most else 1)
        passes = None if inside is None else inside >= 0
        yield {"rule": limit.setting, "value": value, "limit": limit.value, "passes": passes, "distance": inside}


def _read_history(folder: Folder, uri: str) -> dict[str, float | None]:
    """The row of scores/history, {} where it was not measured."""
    for part in runs.parts(folder):
        place = f"scores/{HISTORY}"
        for name in part.folder.names(place):
            found = part.folder.read_table(f"{place}/{name}", where=pc.field("uri") == uri).to_pylist()
            if found:
                return cast(dict[str, float | None], found[0])
    return {}


def _list_checks(one: pa.Table, row: records.LedgerRow, config: FilterConfig) -> Iterator[Check]:
    """Of lists, of --where, and of benchmarks, as far as they are in force."""
    own = {row["uri"], row["key"], row["sha256"]}
    for place in config.select.opt_out:
        try:
            listed: bool | None = bool(own & set(read_list(place)))
        except InputError:  # the list is not there any more
            listed = None
        yield _told("opt_out", place, None if listed is None else not listed)
    if config.select.forbid:
        forbidden = ", ".join(config.select.forbid)
        yield _told(
            "forbid", forbidden if row.get("leak") is None else f"{forbidden}: {row['leak']}", row.get("leak") is None
        )
    if config.select.where:
        there = set(columns_of(config.select.where)) <= set(one.column_names)
        passes = bool(matches(config.select.where, one)[0].as_py()) if there else None
        yield _told("where", config.select.where, passes)


def _told(rule: str, limit: str, passes: bool | None) -> Check:
    return {"rule": rule, "value": None, "limit": limit, "passes": passes, "distance": None}


def _find_standing(folder: Folder, one: pa.Table, config: FilterConfig) -> Standing | None:
    metric = config.iqa.metric
    if metric == "none" or metric not in one.column_names:
        return None
    from lucidflux_data.iqa.metrics import lower_is_better

    ranked = runs.read_ledger(folder, ["rank", "keep", metric]).filter(pc.is_valid(pc.field("rank")))
    cut = number_kept(ranked.num_rows, config.cut)
    if config.cut.top_k is not None:  # what near-duplicates leave is filled up from beyond
        cut = pc.max(ranked.filter(pc.field("keep"))["rank"]).as_py() or cut
    at_the_cut = ranked.filter(pc.field("rank") == cut)[metric]
    cut_score = at_the_cut[0].as_py() if len(at_the_cut) else None
    score = one[metric][0].as_py() if one["rank"][0].as_py() is not None else None
    distance = None
    if score is not None and cut_score is not None:
        distance = cut_score - score if lower_is_better(metric) else score - cut_score
    return {
        "metric": metric,
        "score": score,
        "rank": one["rank"][0].as_py(),
        "of": ranked.num_rows,
        "cut": cut,
        "cut_score": cut_score,
        "distance": distance,
    }


def _find_place(folder: Folder, key: str) -> Place | None:
    """None where nothing is packed yet, or the shards are of another ledger."""
    if not folder.exists(shards.MANIFEST):
        return None
    packed = stripping.packed_keys(folder).get(key, key)
    for entry in shards.read_manifest(folder)["shards"]:
        index = f"shards/{entry['name'].removesuffix('.tar')}.index.parquet"
        for row in folder.read_table(index, where=pc.field("key") == packed).to_pylist():
            if not row["member"].endswith(".json"):
                return {"shard": entry["name"], "member": row["member"], "offset": row["offset"], "size": row["size"]}
    return None


def _same_bytes(folder: Folder, row: records.LedgerRow) -> list[str]:
    if row["key"] is None:
        return []
    uris = runs.read_ledger(folder, ["uri", "key"], pc.field("key") == row["key"])["uri"].to_pylist()
    return [uri for uri in uris if uri != row["uri"]]
