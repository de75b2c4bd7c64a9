"""What a card says of a finished set: counts, rules, licences, what was looked into and what was not.

Read from manifest, run.json, ledger and indices alone. A place of whoever made the set (a path, a bucket, a host) is in
none of it: suites, lists and tables are named by the last part of their path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc

from lucidflux_data.audit.doubts import find_doubts
from lucidflux_data.config import dotted
from lucidflux_data.errors import ConfigError
from lucidflux_data.measures import firewall
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.card import PairsCard, make_card
from lucidflux_data.publish.licences import COLUMNS, NOT_RECORDED, count_licences, licence_of
from lucidflux_data.selection import ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.records import WHAT_IT_MEANS
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.shard import Manifest, StripCard
from lucidflux_data.shards.verify import PLACE, index_of_tar
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

LOOKED_AT = 1000  # pairs whose drawn parameters are tested against their preset
CHOOSING = ("rules", "cut", "select", "iqa")  # sections that decide which images are kept
PLACES = ("select.join", "select.forbid", "select.opt_out")  # settings that name files


@dataclass(frozen=True)
class Reason:
    """`count` candidates that are not in the set, for the reason `name`, which means `meaning`."""

    name: str
    count: int
    meaning: str


@dataclass(frozen=True)
class SetFacts:
    """`images`: clean images in it; `candidates`: that were looked at; `members`: files of the samples by extension;
    `settings`: what decided, by name; `licences`: images by licence as stated; `looked_into`, `not_looked_into`:
    sentences."""

    kind: Literal["images", "pairs"]
    prefix: str  # of the shards: hq or pairs
    manifest: Manifest
    images: int
    candidates: int
    reasons: list[Reason]
    members: dict[str, int]
    settings: dict[str, str]
    licences: dict[str, int]
    looked_into: list[str]
    not_looked_into: list[str]


def gather_facts(folder: Folder) -> SetFacts:
    """Of a packed run, or of pairs. ConfigError for pairs whose HQ are pointers into their source, since their shards
    are no set by themselves. VerificationError without a manifest."""
    return _of_pairs(folder) if pairs_run.is_pairs(folder) else _of_run(folder)


def last_part(place: str) -> str:
    """The name of a file or suite without the folders before it."""
    return re.split(r"[/\\]", place.rstrip("/\\"))[-1]


def _members(folder: Folder, manifest: Manifest) -> dict[str, int]:
    """Files in the tars by what stands behind the first dot of their names."""
    found: Counter[str] = Counter()
    for entry in manifest["shards"]:
        names = folder.read_table(f"{PLACE}/{index_of_tar(entry['name'])}", ["member"])["member"].to_pylist()
        found.update(name.partition(".")[2] for name in names)
    return dict(sorted(found.items()))


def _reasons(*counted: Mapping[str, int]) -> list[Reason]:
    together = {name: count for part in counted for name, count in part.items() if count}
    ordered = sorted(together.items(), key=lambda item: (-item[1], item[0]))
    return [Reason(name, count, WHAT_IT_MEANS.get(name, name)) for name, count in ordered]


def _of_run(folder: Folder) -> SetFacts:
    run, manifest = runs.read_run(folder), shards.read_manifest(folder)
    config = FilterConfig.model_validate(run["config"])
    counts = ledger.counts(runs.read_ledger(folder, ["keep", "reason"]))
    licences = _licences_of_run(folder)
    looked, not_looked = _compared(manifest, config)
    _add(_stripped(manifest.get("stripped")), looked, not_looked)
    _add(_opted_out(config, counts["rejected"].get("opted_out", 0)), looked, not_looked)
    looked += _forgotten(folder)
    if config.select.near_duplicates is None:
        not_looked.append("Near-duplicates were not looked for: only equal bytes were taken for the same image.")
    sides = runs.read_ledger(folder, ["keep", "side"], pc.field("keep") & pc.field("side").is_valid()).num_rows
    if sides:
        not_looked.append(f"What stood beside {sides:,} images in their source is in their json as it came.")
    if "base" in manifest:
        old = manifest["base"]
        looked.append(
            f"Version {manifest['version']} of the set: {old['samples']:,} images are those of version "
            f"{old['version']} (content {old['content_sha256'][:12]}), which were decided then, by its rules."
        )
    if counts["included"]:
        not_looked.append(f"{counts['included']:,} images were kept by hand, beside the rules.")
    not_looked += [*_content(licences), *(_without_places(sentence, folder) for sentence in find_doubts(folder))]
    return SetFacts(
        kind="images",
        prefix="hq",
        manifest=manifest,
        images=manifest["samples"],
        candidates=counts["candidates"],
        reasons=_reasons(counts["rejected"], counts["failed"]),
        members=_members(folder, manifest),
        settings=_settings(config),
        licences=licences,
        looked_into=looked,
        not_looked_into=not_looked,
    )


def _add(finding: tuple[list[str], list[str]], looked: list[str], not_looked: list[str]) -> None:
    looked += finding[0]
    not_looked += finding[1]


def _settings(config: FilterConfig) -> dict[str, str]:
    """What decided, as text; what is off is left out, files are named without their folders."""
    values = {name: value for name, value in dotted(config.model_dump()).items() if name.split(".")[0] in CHOOSING}
    if config.iqa.metric == "none":
        values = {name: value for name, value in values.items() if not name.startswith("cut.")}
    found = {}
    for name, value in values.items():
        if value in (None, (), "", []) or (name.startswith("iqa.") and name != "iqa.metric"):
            continue
        if name == "select.forbid_missing" and not config.select.forbid:
            continue
        parts = [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]
        found[name] = ", ".join(map(last_part, parts) if name in PLACES else parts)
    return found


def _licences_of_run(folder: Folder) -> dict[str, int]:
    """Of the images that are in the shards; of several rows with one key the first counts."""
    table = runs.read_ledger(folder)
    names = [name for name in ("key", "keep", "format", "side", *COLUMNS) if name in table.column_names]
    manifest, packed = shards.read_manifest(folder), stripping.packed_keys(folder)
    stated: dict[str, str] = {}
    for row in table.select(names).to_pylist():
        if row["keep"] and not stripping.is_dropped(row, manifest):
            side = parse_json(row["side"]) if row.get("side") else None
            stated.setdefault(packed.get(row["key"], row["key"]), licence_of(row, side))
    return count_licences(stated.values())


def _compared(manifest: Manifest, config: FilterConfig) -> tuple[list[str], list[str]]:
    """What of benchmarks was looked into, and what was not."""
    if not config.select.forbid:
        return [], ["The images were compared with no benchmark suite: images of any benchmark may be among them."]
    card = firewall.read_card(manifest, config.select.forbid)
    looked = [
        f"Compared with every image of {last_part(suite)} (fingerprints {sha256[:12]}): the set has none of it."
        for suite, sha256 in card["checked"].items()
    ]
    partly = card["partly_checked"]
    not_looked = [
        f"Compared with a part of {last_part(suite)} alone ({firewall.describe_partly(entry)}): NOT checked as a whole."
        for suite, entry in partly.items()
    ]
    others = [suite for suite in card["not_checked"] if suite not in partly]
    return looked, not_looked + [f"NOT checked against {last_part(suite)}." for suite in others]


def _stripped(card: StripCard | None) -> tuple[list[str], list[str]]:
    if card is None:
        return [], [
            "Metadata inside the image files (EXIF with places, devices and owners, XMP, thumbnails) were not looked "
            "into: the files are as they came."
        ]
    stays = "" if "author" in card["tags"] else "; copyright notices stay"
    finding = f"Metadata inside the image files were taken out (--strip {','.join(card['tags'])}{stays})"
    looked = [f"{finding}: {card['images']:,} files had any."]
    kinds = ", ".join(f"{count:,} {name}" for name, count in card["not_looked_into"].items())
    if not kinds:
        return looked, []
    if card.get("unsupported", "keep") == "drop":
        return [*looked, f"Files of formats that are not looked into were left out: {kinds}."], []
    return looked, [f"Metadata inside files of these formats were not looked into: {kinds}."]


def _opted_out(config: FilterConfig, count: int) -> tuple[list[str], list[str]]:
    lists = [place for place in config.select.opt_out if last_part(place) != run_folder.FORGOTTEN]
    if not lists:
        return [], ["No opt-out list was applied: whether anyone asked to be left out was not looked into."]
    named = ", ".join(map(last_part, lists))
    return [f"Opt-out lists were applied ({named}): {count:,} candidates were on one."], []


def _forgotten(folder: Folder) -> list[str]:
    """A sentence where images were taken out later."""
    count = len(set(run_folder.read_forgotten(folder)))
    if not count:
        return []
    return [
        f"{count:,} images (by key or sha256) were taken out of the set after it was made. Copies of an earlier "
        "revision still hold them."
    ]


def _content(licences: Mapping[str, int]) -> list[str]:
    """What no measure here looks into, and how many images have no licence stated."""
    lacking = licences.get(NOT_RECORDED, 0)
    finding = (
        [f"The licence of {lacking:,} images is not recorded: it was not looked for elsewhere."] if lacking else []
    )
    return [
        *finding,
        "What the images show (persons, places, texts, offence) was looked into by no measure of this set.",
    ]


def _without_places(sentence: str, folder: Folder) -> str:
    """A sentence of an audit with each run's place replaced."""
    for place in [str(folder), *(str(part.folder) for part in runs.parts(folder))]:
        sentence = sentence.replace(place, "A run of this set" if sentence.startswith(place) else "a run of this set")
    return sentence


def _of_pairs(folder: Folder) -> SetFacts:
    config, manifest = pairs_run.read_config(folder), shards.read_manifest(folder)
    if config.hq == "ref":
        raise ConfigError(
            f"the pairs of {folder} hold pointers in place of their HQ images (hq=ref), which nobody else can follow: "
            "make pairs with --hq png, jxl, webp or jpeg:Q into another folder"
        )
    card = make_card(folder, LOOKED_AT)
    looked, not_looked = _compared_pairs(card)
    looked.append("HQ and LQ are pixels encoded anew: no metadata of the source files are in them.")
    looked += _forgotten(folder)
    for finding in _of_sources(folder):
        _add(finding, looked, not_looked)
    flagged = [row["name"] for row in card["parameters"] if row["flagged"]]
    tested = sum(row["p"] is not None for row in card["parameters"])
    many = f"{card['looked_at']:,} pairs"
    if flagged:
        not_looked.append(f"Parameters drawn in {many} are NOT as the preset says: {', '.join(flagged)}.")
    elif tested:
        looked.append(f"{tested} of {len(card['parameters'])} drawn parameters agree with the preset in {many}.")
    else:
        not_looked.append(f"Whether the drawn parameters agree with the preset cannot be seen from {many}.")
    if card["crops_that_failed_the_rules"]:
        not_looked.append(f"{card['crops_that_failed_the_rules']:,} crops fail the blur or flat rule at every try.")
    degrade = config.degrade
    settings = {
        "preset": card["label"],
        "variants of each image": str(config.variants),
        "HQ": f"{degrade.size}x{degrade.size} px, {config.hq}",
        "LQ": f"{degrade.size // degrade.scale}x{degrade.size // degrade.scale} px, png",
        "scale": str(degrade.scale),
        "seed": str(degrade.seed),
    }
    return SetFacts(
        kind="pairs",
        prefix="pairs",
        manifest=manifest,
        images=card["used"],
        candidates=card["candidates"],
        reasons=_reasons(card["rejected"], card["failed"]),
        members=_members(folder, manifest),
        settings=settings,
        licences=card["licences"],
        looked_into=looked,
        not_looked_into=[*not_looked, *_content(card["licences"])],
    )


def _compared_pairs(card: PairsCard) -> tuple[list[str], list[str]]:
    checked, others, unknown = card["checked_against"], card["not_checked_against"], card["sources_not_compared"]
    looked = [f"The clean images were compared with every image of {last_part(suite)}." for suite in checked]
    not_looked = [f"NOT checked against {last_part(suite)}." for suite in others]
    if unknown:
        not_looked.append(f"{len(unknown):,} sources of the clean images were compared with no benchmark suite.")
    if not checked and not others and not unknown:
        not_looked.append("The clean images were compared with no benchmark suite: any of one may be among them.")
    return looked, not_looked


def _of_sources(folder: Folder) -> list[tuple[list[str], list[str]]]:
    """Opt-outs and near-duplicates of the packed runs that the clean images come from."""
    known = []
    for source in map(Folder, pairs_run.read(folder)["sources"]):
        if source.exists(run_folder.RUN_FILE) and source.exists(runs.LEDGER):
            config = FilterConfig.model_validate(runs.read_run(source)["config"])
            counts = ledger.counts(runs.read_ledger(source, ["keep", "reason"]))
            known.append((config, counts["rejected"].get("opted_out", 0)))
    if not known:
        return [([], ["Whether opt-outs and near-duplicates of the clean images were looked into is not known here."])]
    found = [_opted_out(config, count) for config, count in known]
    if any(config.select.near_duplicates is None for config, _ in known):
        found.append(([], ["Near-duplicates among the clean images were not looked for."]))
    return [(list(finding[0]), list(finding[1])) for finding in dict.fromkeys((tuple(a), tuple(b)) for a, b in found)]
