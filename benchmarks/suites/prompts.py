"""Prompts of a suite: one text an id, and by whom they were made.

    DIR/<id>.txt  DIR/prompts.toml (captioner, revision, sha256)

A caption is an input like the pixels: the same method with other captions is another method. The sha256 is over the
sorted lines of id and sha256 of its text. The three keys stand in prompts.toml, or below `prompts` of the suite file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from benchmarks.data_files import FileModel, Word, read_toml, validate
from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.storage.regular import open_regular

RECORD_FILE = "prompts.toml"
MOST = 1 << 20  # bytes of a prompt; the longest that a text encoder here takes has a hundredth of it


class PromptRecord(FileModel):
    """By whom the prompts of a suite were made: `captioner` (a model, or a person), its `revision`, and the hex sha256
    of all of them."""

    captioner: Word
    revision: Word
    sha256: Annotated[Word, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class SuitePrompts:
    """The checked prompts of a folder; `texts`: id -> UTF-8 bytes, as they are in its file."""

    record: PromptRecord
    texts: Mapping[str, bytes]


def read_prompts(folder: Path, ids: Iterable[str], record: PromptRecord | None = None) -> SuitePrompts:
    """The prompts in `folder`, of which each of `ids` has one. `record`: of the suite file; None: prompts.toml.

    InputError for an id without a text and for one that is no UTF-8, ConfigError for a wrong prompts.toml,
    VerificationError where the sha256 is another.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of prompts")
    texts = {path.stem: _read_text(path) for path in sorted(folder.glob("*.txt"))}
    missing = sorted(set(ids) - texts.keys())
    if missing:
        raise InputError(f"{folder} has no {missing[0]}.txt ({len(missing)} such ids)")
    file = folder / RECORD_FILE
    record = record or validate(PromptRecord, read_toml(file), file)
    found = sha256_of(texts)
    if found != record.sha256:
        raise VerificationError(f"{folder} holds other prompts than recorded: sha256 {found}, not {record.sha256[:16]}")
    return SuitePrompts(record, texts)


def _read_text(path: Path) -> bytes:
    """InputError for what is no text of one image: a pipe, a device, a large file, other bytes than UTF-8."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST + 1)
        data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST:
        raise InputError(f"{path} has more than {MOST:,} bytes: no prompt is as long")
    return data


def sha256_of(texts: Mapping[str, bytes]) -> str:
    """One hex sha256 over the sorted lines of id and sha256."""
    lines = (f"{id_} {hashlib.sha256(texts[id_]).hexdigest()}\n" for id_ in sorted(texts))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def encode_prompts(prompts: SuitePrompts) -> dict[str, bytes]:
    """File name -> bytes of a folder that `read_prompts` reads."""
    keys = (f"{key} = {_quoted(value)}\n" for key, value in prompts.record.model_dump().items())
    return {**{f"{id_}.txt": text for id_, text in prompts.texts.items()}, RECORD_FILE: "".join(keys).encode()}


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are TOML's, which escapes DEL, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
