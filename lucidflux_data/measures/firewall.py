"""What a set was compared with: forbidden suites, by the content of their fingerprints, in run.json and manifest.

    run.json        firewall: {item: {sha256, images, of}}, what the ledger was compared with
    manifest.json   firewall: {measure, checked: {item: sha256}, partly_checked: {item: {...}}, not_checked: [items]}

`checked` are suites of which every image has a fingerprint. One of which some have is compared as far as that goes, and
stands in `not_checked` as well. A manifest of a version before 0.1.1 has no `measure`: the name of what it took for the
result came from the names of the suites, so its `checked` says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict

FIELD: Final = "firewall"  # in run.json and manifest.json
PREFIX = "firewall-"  # of its measures
PLACE = "firewall"  # in a run folder: the fingerprint files that it was compared with


class Compared(TypedDict):
    """`sha256` of a fingerprint file, `images` in it, `of` how many of the suite; None where the file does not say, as
    those of versions before 0.1.1."""

    sha256: str
    images: int
    of: int | None


class Card(TypedDict):
    """What a manifest says. `measure`: the folder under scores/ with the result, None where nothing was compared."""

    measure: str | None
    checked: dict[str, str]
    partly_checked: dict[str, Compared]
    not_checked: list[str]


def measure_name(compared: Mapping[str, Compared]) -> str | None:
    """The folder under scores/ of the images of these suites that were found; None without suites.

    It follows from the content of the fingerprints: a suite with other images is another measure, and one that was not
    there is in none.
    """
    content = sorted({entry["sha256"] for entry in compared.values()})
    if not content:
        return None
    return f"{PREFIX}{hashlib.sha256(chr(10).join(content).encode()).hexdigest()[:16]}"


def measure_in_force(run: Mapping[str, Any], forbid: Iterable[str]) -> str | None:
    """The measure of the ledger of a run, where that forbids the same suites. `run`: the content of run.json."""
    asked = run["config"]["select"]["forbid"]
    return measure_name(run.get(FIELD, {})) if set(asked) == set(forbid) else None


def make_card(forbid: Iterable[str], compared: Mapping[str, Compared]) -> Card:
    """Of the forbidden items, and of what the ledger was compared with."""
    there = {item: compared[item] for item in dict.fromkeys(forbid) if item in compared}
    whole = {item: entry["sha256"] for item, entry in there.items() if entry["images"] == entry["of"]}
    return {
        "measure": measure_name(there),
        "checked": whole,
        "partly_checked": {item: entry for item, entry in there.items() if item not in whole},
        "not_checked": [item for item in dict.fromkeys(forbid) if item not in whole],
    }


def read_card(manifest: Mapping[str, Any], forbid: Iterable[str]) -> Card:
    """The card of a packed run that forbids these items: nothing is checked where it has none, or an old one."""
    card = manifest.get(FIELD, {})
    return card if "measure" in card else make_card(forbid, {})


def describe_partly(entry: Compared) -> str:
    """`3 of 5 images`."""
    if entry["of"] is None:
        return f"{entry['images']} images, its fingerprint file does not say of how many"
    return f"{entry['images']} of {entry['of']} images"


def describe_card(card: Card) -> list[str]:
    """A phrase for each suite, the checked ones first."""
    lines = [f"checked against {item} ({sha256[:12]})" for item, sha256 in card["checked"].items()]
    partly = card["partly_checked"]
    lines += [f"NOT CHECKED as a whole: {item} ({describe_partly(entry)})" for item, entry in partly.items()]
    return lines + [f"NOT CHECKED: {item}" for item in card["not_checked"] if item not in partly]
