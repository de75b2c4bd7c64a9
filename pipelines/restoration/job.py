"""`lucidflux restore`: folders, globs and tars of images through a model, here or on the GPUs of a cluster.

    sources -> plan (one name for each image) -> batches -> worker: decode, restore, encode -> OUT/<name>.png
                                                                                            -> OUT/records/<id>.json
    OUT/run.json: settings and weights of this folder, checked when a command is repeated; OUT/manifest.json, last

An image is done when its record is there: repeating the command does the rest, and tries failed ones again. The result
of an image depends neither on the others nor on their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from lucidflux_data.config import deciding_values, digest
from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import canonical_json
from lucidflux_data.storage.run_folder import RUN_FILE, read_claim
from lucidflux_model.inference.config import weights_digest
from lucidflux_model.weights.files import file_sha256
from pipelines.execution.worker import Publish, Unit
from pipelines.restoration.config import NetworkConfig
from pipelines.restoration.records import RestoreSummary, read_records
from pipelines.restoration.rows import RECORDS, RestoreRow, list_images, make_work_list
from pipelines.restoration.unit import AnyConfig, RestoreUnit

MANIFEST = "manifest.json"
PACKAGES = ("torch", "diffusers", "transformers", "spandrel")


def start(folder: Folder, sources: list[str], config: AnyConfig, limit: int | None = None) -> list[RestoreRow]:
    """Checks that OUT is new or was made by the same settings and weights. Gives the plan."""
    for source in sources:
        if f"{folder.url}/".startswith(f"{absolute_url(source)}/"):
            raise ConfigError(f"{folder} lies inside {source}, whose images would then be restored again: move --out")
    rows = make_work_list(list_images(sources), config.format, limit)
    settings: dict[str, Any] = {**deciding_values(config), "weights_sha256": _weights_of(config)}
    settings["model"] = {name: value for name, value in settings["model"].items() if name not in _PATHS}
    run = {"schema_version": 1, "kind": "restored images", "settings": settings, "digest": digest(settings)}

    def resume(before: dict[str, Any]) -> bool:
        if before.get("digest") == run["digest"]:
            return False
        if not folder.names(RECORDS):
            return True  # nothing was restored with the other ones
        changed = [name for name, value in settings.items() if before.get("settings", {}).get(name) != value]
        raise ConfigError(f"{folder} was restored with another {', '.join(changed) or 'version'}: choose another --out")

    claim(folder, run, "is not empty and holds no restored images", resume)
    return rows


_PATHS = ("weights", "trained", "file")  # where the weights lie says nothing about them; their hash does


def _weights_of(config: AnyConfig) -> str:
    """sha256 (hex) of the weights. A network's file is loaded once for it: a wrong one raises before any work."""
    if not isinstance(config, NetworkConfig):
        return weights_digest(config.model)
    from pipelines.restoration.network import load_network

    sha256 = file_sha256(Path(config.model.file))
    load_network(config.model)
    return sha256


def run_here(
    folder: Folder, units: list[Unit[list[RestoreRow]]], work: RestoreUnit
) -> Iterator[Unit[list[RestoreRow]]]:
    """In this process, with all its cores: what one model on one device needs."""
    publish = Publish(work, folder)
    for unit in units:
        publish(unit)
        yield unit


def finish(folder: Folder, rows: list[RestoreRow]) -> RestoreSummary:
    """Publishes the manifest; gives the counts. What lies under the name of a failure is of another input: it goes."""
    records = read_records(folder)
    made = {image["name"] for image in records.values() if image["status"] == "ok"}
    made |= {str(parent) for name in made for parent in PurePosixPath(name).parents}
    for row in rows:
        if row["id"] in records and row["name"] not in made and folder.exists(row["name"]):
            folder.remove(row["name"])
    images = [records[row["id"]] for row in rows if row["id"] in records]
    counts = Counter(image["status"] for image in images)
    reasons = Counter(image["reason"] for image in images if image["status"] == "failed")
    seconds = sorted(image["seconds"] for image in images if image["status"] == "ok")
    summary: RestoreSummary = {
        "images": len(rows),
        "restored": counts["ok"],
        "failed": dict(reasons),
        "seconds_an_image": seconds[len(seconds) // 2] if seconds else None,
        "peak_memory_bytes": max(
            (image["peak_memory_bytes"] for image in images if image["status"] == "ok"), default=0
        ),
    }
    run = read_claim(folder, RUN_FILE)
    versions = {package: version(package) for package in PACKAGES if find_spec(package)}
    folder.publish(MANIFEST, canonical_json({**run, "versions": versions, **summary, "records": images}))
    return summary
