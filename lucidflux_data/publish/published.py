"""Which files of a set go to others, and what keeps a folder from being published.

Published are the shards, their indices, manifest and card. Tables, reports and run.json stay: they name places of
whoever made the set. A file that is neither is of somebody else, and nothing is published beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.measures import firewall
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.publish.card import CARD, has_front_matter, names_content, page_of
from lucidflux_data.publish.croissant import CROISSANT, MAIN, read_croissant, resolve_url
from lucidflux_data.publish.facts import last_part
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.verify import PLACE, index_of_tar
from lucidflux_data.storage.folder import TEMPORARY, Folder
from lucidflux_data.storage.journal import STAGE

LAST = (shards.MANIFEST, CROISSANT, CARD)  # they speak of the whole set, so they go when the rest is there
# What a run and a folder of pairs hold beside these, and keep: see docs/design.md.
STAY_FILES = frozenset(
    {"run.json", "inventory.parquet", "selected.parquet", "stripped.parquet", "forgotten.txt", ".lease"}
    | {"report.html", "explore.html", "view.html"}
)
STAY_FOLDERS = frozenset(
    {"scores", "tiles", "base", "firewall", "inputs", "events", "included", "stray", "cache", TEMPORARY, STAGE}
)


@dataclass(frozen=True)
class PublishedFile:
    """`name`: in the folder and in the repository; `bytes`; `sha256`: that the manifest gives, None for what it does
    not list (itself and the card)."""

    name: str
    bytes: int
    sha256: str | None


def list_published(folder: Folder, repository: str, revision: str = MAIN) -> list[PublishedFile]:
    """The files in the order in which they are sent to a branch of OWNER/NAME. ConfigError for a folder in a store.
    VerificationError for one without a card, with one of another set or place, or with files that no manifest lists."""
    if not folder.is_local:
        raise ConfigError(f"{folder.url} is in a store: push sends from a folder of this machine, so copy it first")
    manifest = shards.read_manifest(folder)
    if not pairs_run.is_pairs(folder) and not manifest["shards"]:
        raise VerificationError(f"{folder} has no shards: there is nothing to publish")
    _check_card(folder, manifest, repository, revision)
    files = [_listed(folder, f"{PLACE}/{name}", sha256) for name, sha256 in sorted(_sums(manifest).items())]
    files += [_listed(folder, name, None) for name in LAST]
    _refuse_others(folder, {file.name for file in files})
    return files


def describe_places(folder: Folder) -> list[str]:
    """A sentence where the manifest, which is published, names suites by a path or url."""
    card = shards.read_manifest(folder).get(firewall.FIELD, {})
    named = [*card.get("checked", {}), *card.get("partly_checked", {}), *card.get("not_checked", [])]
    places = sorted({item for item in named if last_part(item) != item})
    if not places:
        return []
    return [f"{shards.MANIFEST} names {len(places)} suites by their place, which others will read: {', '.join(places)}"]


def _sums(manifest: shards.Manifest) -> dict[str, str]:
    """sha256 of tars and indices by their names."""
    found = {}
    for entry in manifest["shards"]:
        found[entry["name"]] = entry["sha256"]
        found[index_of_tar(entry["name"])] = entry["index_sha256"]
    return found


def _listed(folder: Folder, name: str, sha256: str | None) -> PublishedFile:
    try:
        return PublishedFile(name, folder.size(name), sha256)
    except FileNotFoundError:
        raise VerificationError(f"{folder.path(name)} is missing: `lucidflux-data verify {folder}` tells") from None


def _check_card(folder: Folder, manifest: shards.Manifest, repository: str, revision: str) -> None:
    again = f"`lucidflux-data card {folder}` writes it"
    if not folder.exists(CARD):
        raise VerificationError(f"{folder} has no card ({CARD}): {again}")
    described = read_croissant(folder)
    if described["place"] not in (None, resolve_url(page_of(repository), revision)):
        to = f"`lucidflux-data card {folder} --to hf://datasets/{repository} --revision {revision}`"
        raise VerificationError(f"the card of {folder} was written for {described['place']}: {to} writes another")
    if described["shards"] != {entry["name"]: entry["sha256"] for entry in manifest["shards"]}:
        raise VerificationError(f"{folder.path(CROISSANT)} is of other shards than those that are there now: {again}")
    card = folder.read(CARD)
    if not has_front_matter(card):
        raise VerificationError(f"{folder.path(CARD)} does not begin with YAML that tells of data files: {again}")
    if not names_content(card, manifest["content_sha256"]):
        raise VerificationError(f"{folder.path(CARD)} does not name the content of these shards: {again}")


def _refuse_others(folder: Folder, published: set[str]) -> None:
    others = sorted(name for name in _files(folder) if name not in published)
    if others:
        named = ", ".join(others[:5]) + (f" and {len(others) - 5:,} more" if others[5:] else "")
        raise VerificationError(f"{folder} holds files that no manifest lists: {named}: move them elsewhere, then push")


def _files(folder: Folder) -> Iterator[str]:
    """Every file but those that stay, links included, by its path in the folder."""
    for place, inner, names in os.walk(folder.root):
        below = os.path.relpath(place, folder.root)
        if below == ".":
            inner[:] = [name for name in inner if name not in STAY_FOLDERS]
            yield from (name for name in names if name not in STAY_FILES)
        else:
            yield from (f"{below}/{name}".replace(os.sep, "/") for name in names)
