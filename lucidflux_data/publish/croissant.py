"""Croissant 1.0 metadata (mlcommons.org/croissant) of a set: its shards with their sha256, and the records inside.

Readers that know Croissant find the images without this project: each record has the key of a sample and its pictures.
What nobody stated (a date, a version, a licence of the whole) is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict
from urllib.parse import quote

from lucidflux_data.errors import VerificationError
from lucidflux_data.publish.facts import SetFacts
from lucidflux_data.publish.licences import NOT_RECORDED
from lucidflux_data.shards.verify import PLACE
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

CROISSANT = "croissant.json"
MAIN = "main"  # the branch of a repository that nobody named another of
VERSION = "http://mlcommons.org/croissant/1.0"
# The context of the reference datasets of version 1.0, key by key.
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
MEDIA_TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "j2k": "image/jp2",
    "jp2": "image/jp2",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "mpo": "image/jpeg",
    "png": "image/png",
    "tif": "image/tiff",
    "webp": "image/webp",
}
Node = dict[str, object]  # of JSON-LD


class About(TypedDict):
    """What a card has beside the facts: `name` and `description` of the set, `creator`: who made it, None where
    nobody said; `url`: of its page on the Hub, None before it has one; `revision`: its branch there."""

    name: str
    description: str
    creator: str | None
    url: str | None
    revision: str


def resolve_url(page: str, revision: str) -> str:
    """Where the Hub gives the files of a branch, a slash at the end. `page`: of the dataset."""
    return f"{page}/resolve/{quote(revision, safe='')}/"


def make_croissant(facts: SetFacts, about: About) -> bytes:
    """The metadata as JSON-LD, the same bytes for the same facts. Shards are named by their place on the Hub where the
    set has one, since readers of a file from the network take no other, else by their place beside the file."""
    beside = resolve_url(about["url"], about["revision"]) if about["url"] else ""
    shards = [_shard(entry, beside) for entry in facts.manifest["shards"]]
    stated = [licence for licence in facts.licences if licence != NOT_RECORDED]
    found: Node = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": about["name"],
        "description": about["description"],
        **({"url": about["url"]} if about["url"] else {}),
        **({"creator": {"@type": "sc:Organization", "name": about["creator"]}} if about["creator"] else {}),
        **({"license": stated[0] if len(stated) == 1 else stated} if stated else {}),
        "distribution": [*shards, *_file_sets(facts, [str(shard["@id"]) for shard in shards])],
        "recordSet": _records_of_pairs() if facts.kind == "pairs" else [_records("samples", "images")],
    }
    return json.dumps(found, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _shard(entry: Mapping[str, object], beside: str) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": entry["name"],
        "name": entry["name"],
        "contentUrl": f"{beside}{PLACE}/{entry['name']}",
        "contentSize": f"{entry['bytes']} B",
        "encodingFormat": "application/x-tar",
        "sha256": entry["sha256"],
    }


def _image_extensions(facts: SetFacts, start: str = "") -> list[str]:
    return [name for name in facts.members if name != "json" and name.startswith(start)]


def _file_sets(facts: SetFacts, shards: Sequence[str]) -> list[Node]:
    """The images of a filtered set; HQ and LQ of pairs. The card describes the json of each sample."""
    names = {"hq-files": "hq.", "lq-files": "lq."} if facts.kind == "pairs" else {"images": ""}
    found: list[Node] = []
    for name, start in names.items():
        extensions = _image_extensions(facts, start)
        types = sorted({MEDIA_TYPES.get(each.rpartition(".")[2], "application/octet-stream") for each in extensions})
        includes = [f"*.{extension}" for extension in extensions]
        found.append({
            "@type": "cr:FileSet",
            "@id": name,
            "name": name,
            "containedIn": [{"@id": shard} for shard in shards],
            "encodingFormat": types[0] if len(types) == 1 else types,
            "includes": includes[0] if len(includes) == 1 else includes,
        })  # fmt: skip
    return found


def _records(name: str, file_set: str) -> Node:
    """A record for each picture of a file set: the key of its sample, and its pixels."""
    key: Node = {"transform": {"regex": r"^([^.]+)\."}}
    fields = [
        _field(name, "key", "sc:Text", _read(file_set, "filename") | key),
        _field(name, "image", "sc:ImageObject", _read(file_set, "content")),
    ]
    return _record_set(name, fields)


def _records_of_pairs() -> list[Node]:
    """HQ and LQ by themselves, and both joined by the key of their pair."""
    joined = [
        _field("samples", "key", "sc:Text", _of_field("hq/key"), {"references": _of_field("lq/key")}),
        _field("samples", "hq", "sc:ImageObject", _of_field("hq/image")),
        _field("samples", "lq", "sc:ImageObject", _of_field("lq/image")),
    ]
    return [_records("hq", "hq-files"), _records("lq", "lq-files"), _record_set("samples", joined)]


def _record_set(name: str, fields: Sequence[Node]) -> Node:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(records: str, name: str, kind: str, source: Node, more: Node | None = None) -> Node:
    identity = f"{records}/{name}"
    return {"@type": "cr:Field", "@id": identity, "name": name, "dataType": kind, "source": source, **(more or {})}


def _read(file_set: str, what: str) -> Node:
    return {"fileSet": {"@id": file_set}, "extract": {"fileProperty": what}}


def _of_field(identity: str) -> Node:
    return {"field": {"@id": identity}}


class Told(TypedDict):
    """What `croissant.json` says: sha256 of each shard by its name; `place`: the address before `shards/`, None where
    they are named by their place beside the file."""

    shards: dict[str, str]
    place: str | None


def read_croissant(folder: Folder) -> Told:
    """VerificationError where there is no `croissant.json`, or something else in its place."""
    again = f"`lucidflux-data card {folder}` writes it"
    try:
        content = parse_json(folder.read(CROISSANT))
        shards = [node for node in content["distribution"] if node["@type"] == "cr:FileObject"]
        places = {str(node["contentUrl"]).removesuffix(f"{PLACE}/{node['@id']}") for node in shards}
        place = places.pop() if len(places) == 1 else ""
        return {"shards": {str(node["@id"]): str(node["sha256"]) for node in shards}, "place": place or None}
    except FileNotFoundError:
        raise VerificationError(f"{folder} has no {CROISSANT}: {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VerificationError(f"{folder.path(CROISSANT)} is damaged: {again}") from None
