"""What a run of the filter and a folder of pairs have in common: run.json, the inventory, units, the list of
forgotten images.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NotRequired, TypedDict, cast

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, checked_bytes, fits_type, parse_json

IMAGE_NAME = re.compile(r"[0-9a-f]{20}|[0-9a-f]{64}")  # key, sha256


RUN_FILE = "run.json"
SEAL = "own_sha256"  # in run.json, and in a manifest since 0.5: of all its other fields
INVENTORY = "inventory.parquet"
FORGOTTEN = "forgotten.txt"  # of a run or of pairs: images that were taken out, and stay out
FORGOTTEN_SUM: Final = "forgotten_sha256"  # in a manifest of pairs; of a run, run.json has that of each list


class RunFile(TypedDict):
    """What run.json of every job says; selection/run.py and pairs/job.py have what theirs says beside it.

    `schema_version`: 1; `kind`: of a job other than the filter, which has none; `label`: the preset and what was
    changed of it; `config`: the settings as the job's config class dumps them; `digests`: sha256 (hex) of what makes
    it this very job, by the name of a step; `decoder_version`, `decoders`: whose pixels its measures are of.
    """

    schema_version: int
    kind: NotRequired[str]
    decoder_version: NotRequired[int]  # since 0.3
    decoders: NotRequired[dict[str, str]]  # since 0.3
    label: str
    config: Mapping[str, Any]
    digests: dict[str, str]


def unit_size(candidates: int) -> int:
    """Images in a unit: clamp(ceil(n/256), 8, 1000), from the number of candidates alone."""
    return min(1000, max(8, -(-candidates // 256)))


def unit_name(number: int) -> str:
    return f"unit-{number:06d}"


def read_about(folder: Folder) -> RunFile:
    """run.json, of whatever job. InputError as `read_claim`."""
    return cast(RunFile, read_claim(folder, RUN_FILE))


def check_about(folder: Folder, about: RunFile, kind: type, config: type[BaseModel]) -> None:
    """InputError where run.json has not the form of `kind`, or its settings not that of `config`: somebody else, or a
    newer version, wrote it."""
    try:
        config.model_validate(about.get("config"))
        fits = fits_type(about, kind)
    except ValidationError:
        fits = False
    if not fits:
        raise InputError(
            f"{folder}/{RUN_FILE} has values that this version does not write: put it back from a copy, or go on with "
            "the version that made it"
        )


def seal(about: Mapping[str, Any]) -> bytes:
    """The bytes of run.json or a manifest: canonical JSON with the sha256 of its own content, as readers compare it."""
    content = {name: value for name, value in about.items() if name != SEAL}
    return canonical_json({**content, SEAL: hashlib.sha256(canonical_json(content)).hexdigest()})


def fits_seal(about: dict[str, Any]) -> bool:
    """Takes the seal out of what a file says. Whether the content fits it, or there was none."""
    sealed = about.pop(SEAL, None)
    return sealed is None or bool(sealed == hashlib.sha256(canonical_json(about)).hexdigest())


def write_about(folder: Folder, about: Mapping[str, Any]) -> None:
    """Publishes run.json with its seal."""
    folder.publish(RUN_FILE, seal(about))


def read_claim(folder: Folder, name: str) -> dict[str, Any]:
    """A file that says what a folder is, without its seal. InputError where there is none, or it is no JSON;
    VerificationError where its content no longer fits the seal. A file of an earlier version has none.
    """
    try:
        about = parse_json(folder.read(name))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run folder: it has no {name}") from None
    except ValueError:
        raise InputError(f"{folder}/{name} is damaged: put it back from a copy") from None
    if not isinstance(about, dict):
        raise InputError(f"{folder}/{name} is damaged: put it back from a copy")
    if not fits_seal(about):
        raise VerificationError(
            f"{folder}/{name} was changed after it was written (its content does not fit its {SEAL}): "
            "put the file back from a copy; nothing is made again from it"
        )
    return about


def is_sealed(folder: Folder) -> bool:
    """Whether run.json has a seal; one of a version before 0.3 has none."""
    return SEAL in parse_json(folder.read(RUN_FILE))


def read_forgotten(folder: Folder) -> list[str]:
    """The sha256s and keys that `forget` was given here."""
    return folder.read(FORGOTTEN).decode().split() if folder.exists(FORGOTTEN) else []


def describe_forgotten(folder: Folder) -> dict[str, str]:
    """What a manifest of pairs says of the list of forgotten images; nothing where there is none."""
    if not folder.exists(FORGOTTEN):
        return {}
    return {FORGOTTEN_SUM: hashlib.sha256(folder.read(FORGOTTEN)).hexdigest()}


def read_inventory(folder: Folder, columns: Sequence[str] | None = None) -> pa.Table:
    """The candidates as they were listed. InputError where the file is damaged: nothing else knows them all."""
    try:
        return folder.read_table(INVENTORY, None if columns is None else list(columns))
    except InputError:
        raise InputError(
            f"{folder}/{INVENTORY} is damaged: put it back from a copy, or list the sources into a new folder"
        ) from None


def write_inventory(folder: Folder, table: pa.Table) -> None:
    folder.publish(INVENTORY, checked_bytes(table))


def forgotten_keys(folder: Folder) -> frozenset[str]:
    """Keys of the images that `forget` was given here: of the sources and, after `pack --strip`, of the shards."""
    return frozenset(item[:20] for item in read_forgotten(folder) if IMAGE_NAME.fullmatch(item))
