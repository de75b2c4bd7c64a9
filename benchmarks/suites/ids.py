"""Ids of images: the name of a file without extension, or the part of it that a pattern names; ids that a user names;
and what to say where the names of two folders differ by what stands before or behind the id.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePath

from lucidflux_data.errors import ConfigError, InputError

LOOKED_AT = 100  # strange names, for what they have in common


def read_pattern(text: str | None) -> re.Pattern[str] | None:
    """--id-pattern: a regular expression with the group `id`. ConfigError else."""
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--id-pattern {text} is no regular expression: {error}") from None
    if "id" not in pattern.groupindex:
        raise ConfigError(f"--id-pattern {text} has no group named id, as in '(?P<id>\\d+)_out'")
    return pattern


def as_text(name: str) -> str:
    """A name as text that can be written: composed, since a Mac writes the same accents in another form (Unicode NFD);
    bytes of a file system that are no UTF-8 as \\udcNN."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def id_of(path: PurePath, pattern: re.Pattern[str] | None = None) -> str:
    """The name without extension, or what `pattern` calls id where all of the name fits it."""
    name = as_text(path.stem)
    match = pattern.fullmatch(name) if pattern else None
    return (match["id"] if match else None) or name


def read_ids(file: Path) -> tuple[str, ...]:
    """The ids of a text file, one a line. ConfigError for a file that cannot be read or names none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"--ids {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--ids {file} is not UTF-8 text: it should have an id on each line") from None
    ids = dict.fromkeys(unicodedata.normalize("NFC", line.strip()) for line in lines if line.strip())
    if not ids:
        raise ConfigError(f"--ids {file} names no id")
    return tuple(ids)


def select_ids(
    ids: tuple[str, ...], named: tuple[str, ...] | None, limit: int | None, known: bool, suite: str
) -> tuple[str, ...]:
    """The ids that are scored: those that the user names, or `limit` that are drawn. `known`: whether `ids` are all
    that there are.

    InputError for a named id that is none of them.
    """
    if named is not None:
        strange = sorted(set(named) - set(ids)) if known else []
        if strange:
            raise InputError(f"--ids names {strange[0]}, which is no image of {suite} ({len(strange)} such)")
        chosen = set(named)
        return (*(id_ for id_ in ids if id_ in chosen), *sorted(chosen - set(ids)))
    return sample_ids(ids, limit)


def sample_ids(ids: tuple[str, ...], limit: int | None) -> tuple[str, ...]:
    """`limit` ids drawn by the hash of the id: the same whatever the outputs, a subset of a larger limit."""
    if limit is None or limit >= len(ids):
        return ids
    chosen = set(sorted(ids, key=lambda id_: hashlib.sha256(id_.encode()).digest())[:limit])
    return tuple(id_ for id_ in ids if id_ in chosen)


def suggest_pattern(strange: Collection[str], known: Collection[str]) -> str:
    """`; their names end in _out: --id-pattern '...'` where most strange ids hold a known one between the same two
    pieces, else nothing."""
    looked_at = sorted(strange)[:LOOKED_AT]
    around = Counter(piece for id_ in looked_at for piece in _around(id_, known))
    if not around:
        return ""
    (before, behind), count = max(around.items(), key=lambda item: (item[1], -len("".join(item[0]))))
    if 2 * count <= len(looked_at):
        return ""
    habits = [f"begin with {before}"] * bool(before) + [f"end in {behind}"] * bool(behind)
    start = f"(?:{re.escape(before)})?" if before else ""
    end = f"(?:{re.escape(behind)})?" if behind else ""
    return f"; their names {' and '.join(habits)}: --id-pattern '{start}(?P<id>.+?){end}' leaves that out"


def _around(id_: str, known: Collection[str]) -> set[tuple[str, str]]:
    """What stands before and behind every known id inside `id_`."""
    found = set()
    for start in range(len(id_)):
        for end in range(start + 1, len(id_) + 1):
            if (start, end) != (0, len(id_)) and id_[start:end] in known:
                found.add((id_[:start], id_[end:]))
    return found
