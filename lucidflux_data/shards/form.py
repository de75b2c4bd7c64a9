"""The form of a manifest and of the names in it: what strangers may have written is looked at before it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_OURS = re.compile(r"(hq|pairs)-\d{6,}\.(tar|index\.parquet)")


def is_shard_file(name: str) -> bool:
    """Whether a file below shards/ has a name that this project gives: of a tar or an index."""
    return _OURS.fullmatch(name) is not None


def brace_string(shards: Sequence[str]) -> str:
    """`hq-{000000..000341}.tar`, as WebDataset and the shell expand it; numbers are contiguous by construction."""
    if not shards:
        return ""
    prefix, first = shards[0].rsplit("-", 1)
    last = shards[-1].rsplit("-", 1)[1]
    return f"{shards[0]}.tar" if first == last else f"{prefix}-{{{first}..{last}}}.tar"


def is_manifest(content: object) -> bool:
    """Whether JSON has the keys that every reader of a manifest goes by."""
    if not isinstance(content, dict) or not isinstance(content.get("samples"), int):
        return False
    return isinstance(content.get("digests"), dict) and isinstance(content.get("shards"), list)


def is_ours(content: Mapping[str, Any]) -> bool:
    """Whether shards have names of ours and hashes are hashes: a stranger's manifest puts no text of its own where
    paths, pages and lines of code are made of it."""
    card = content.get("firewall", {})
    lists = {"checked": dict, "partly_checked": dict, "not_checked": list}
    if not isinstance(card, dict) or not isinstance(content.get("stripped", {}), dict):
        return False
    if not all(isinstance(card.get(name), kind) for name, kind in lists.items() if name in card or "measure" in card):
        return False
    if not _is_sha256(content.get("content_sha256")) or not isinstance(content.get("bytes"), int):
        return False
    if not _is_lineage(content):
        return False
    names = [entry["name"].removesuffix(".tar") for entry in content["shards"] if _is_entry(entry)]
    return len(names) == len(content["shards"]) and content.get("urls") == brace_string(names)


def _is_lineage(content: Mapping[str, Any]) -> bool:
    """Whether what is said of the base, where there is one, are numbers, hashes and the name of a metric."""
    base, made_with = content.get("base", {}), content.get("made_with", {})
    if not isinstance(base, dict) or not isinstance(made_with, dict):
        return False
    numbers = [content.get("version", 1), *(base.get(name, 1) for name in ("version", "samples", "shards"))]
    numbers += [made_with.get(name, 1) for name in ("decoder_version", "hash_version")]
    named = isinstance(name := made_with.get("metric", ""), str) and re.fullmatch(r"[\w.+-]*", name) is not None
    return (
        named
        and all(isinstance(each, int) for each in numbers)
        and (not base or _is_sha256(base.get("content_sha256")))
    )


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(name := entry.get("name"), str)
        and name.endswith(".tar")
        and is_shard_file(name)
        and all(isinstance(entry.get(number), int) for number in ("samples", "bytes"))
        and all(_is_sha256(entry.get(digest)) for digest in ("sha256", "index_sha256"))
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
