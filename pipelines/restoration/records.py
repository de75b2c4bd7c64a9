"""What `lucidflux restore` has done: a record for each image, and whether what it says is still there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from lucidflux_data.images import ImageError
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, parse_json
from pipelines.execution.worker import File, Unit
from pipelines.restoration.rows import RECORDS, RestoreRow


class RestoreRecord(TypedDict):
    """records/<id>.json."""

    source_key: str
    name: str
    status: Literal["ok", "failed"]
    reason: NotRequired[str]  # of a failure, as of ImageError
    detail: NotRequired[str]
    input_sha256: NotRequired[str]  # of the bytes of the image; since 0.3
    sha256: NotRequired[str]  # of the result, as what follows
    input: NotRequired[list[int]]  # width, height in pixels
    output: NotRequired[list[int]]
    device: NotRequired[str]
    seconds: NotRequired[float]  # an image, of its batch
    peak_memory_bytes: NotRequired[int]


class RestoreSummary(TypedDict):
    images: int  # all that were asked for
    restored: int
    failed: dict[str, int]  # by reason
    seconds_an_image: float | None  # the median of those restored; None for none
    peak_memory_bytes: int  # the largest of those restored; 0 for none


def record(row: RestoreRow, content: Mapping[str, object]) -> File:
    return f"{RECORDS}/{row['id']}.json", canonical_json(
        {"source_key": row["source_key"], "name": row["name"], **content}
    )


def encode_failure(row: RestoreRow, error: ImageError) -> File:
    return record(row, {"status": "failed", "reason": error.reason, "detail": error.detail})


def read_records(folder: Folder) -> dict[str, RestoreRecord]:
    """The records by the id of their image. What else an earlier version put there is no record."""
    names = [name for name in folder.names(RECORDS) if _RECORD.fullmatch(name)]
    return {name.removesuffix(".json"): parse_json(folder.read(f"{RECORDS}/{name}")) for name in names}


_RECORD = re.compile(r"[0-9a-f]{20}\.json")


def list_remaining(folder: Folder, rows: list[RestoreRow], batch: int) -> list[Unit[list[RestoreRow]]]:
    """Batches, in order, of the images that have no result yet, or one that is gone or other bytes now, or whose input
    is another now. Inputs and results are read for it: that is little beside restoring them."""
    records = read_records(folder)
    left = [row for row in rows if not _is_restored(folder, row, records.get(row["id"]))]
    return [
        Unit(f"batch-{index:06d}", len(left[index : index + batch]), left[index : index + batch])
        for index in range(0, len(left), batch)
    ]


def _is_restored(folder: Folder, row: RestoreRow, found: RestoreRecord | None) -> bool:
    if found is None or found["status"] != "ok":
        return False
    try:
        if hashlib.sha256(folder.read(found["name"])).hexdigest() != found["sha256"]:
            return False
        wanted = found.get("input_sha256")  # a version before 0.3 did not record it
        data = b"" if wanted is None else read_bytes(row["uri"], row["offset"], row["size"])
        return wanted is None or hashlib.sha256(data).hexdigest() == wanted
    except (FileNotFoundError, ImageError):
        return False
