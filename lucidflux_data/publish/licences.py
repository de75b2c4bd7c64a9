"""Licences as the sources state them, and what the Hub calls them. What is not stated is unknown, never guessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

NOT_RECORDED = "not recorded"
COLUMNS = ("licence", "license")  # of a ledger, or of the json beside an image
# Identifiers that the Hub takes in `license:`, of those that images come under.
HUB_IDS = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0"}
    | {"cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"}
    | {"cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "pddl"}
    | {"odc-by", "odbl", "gfdl", "unlicense", "wtfpl"}
)
_URL = re.compile(r"https?://creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)\b")


def licence_of(row: Mapping[str, object], side: object) -> str:
    """What a row of a table, or the json beside its image, states; NOT_RECORDED where neither does."""
    for place in (row, side):
        if isinstance(place, Mapping):
            for column in COLUMNS:
                value = place.get(column)
                if isinstance(value, str) and value.strip():
                    return value.strip()
    return NOT_RECORDED


def count_licences(stated: Iterable[str]) -> dict[str, int]:
    """Images by licence, the most frequent first, those of equal counts by name."""
    counts = Counter(stated)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def hub_id(licence: str) -> str:
    """The Hub's identifier of a licence: `unknown` where none is recorded, `other` where the Hub has none for it."""
    if licence == NOT_RECORDED:
        return "unknown"
    url = _URL.match(licence.lower())
    name = f"cc{'0' if url[2] == 'zero' else '-' + url[2]}-{url[3]}" if url else licence.lower()
    name = re.sub(r"[\s_]+", "-", name.strip())
    if name == "cc0":
        return "cc0-1.0"  # there is no other version
    return name if name in HUB_IDS else "other"


def hub_ids(licences: Iterable[str]) -> list[str]:
    """Identifiers of all licences of a set, each once, sorted; `unknown` for a set without images."""
    return sorted({hub_id(licence) for licence in licences}) or ["unknown"]
