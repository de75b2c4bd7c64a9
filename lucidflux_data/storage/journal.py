"""Files of a folder that change together: all of them are the new ones or all the old ones, whatever ends the command.

The new files lie whole in a stage first. Then FOLDER/journal.json is published, which names each with its old and its
new sha256, and only then they take their places, by one rename each. Whoever takes the lease of a folder with a journal
finishes it before anything is read; without a journal nothing has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypedDict

from lucidflux_data.storage.folder import Content, Folder
from lucidflux_data.storage.formats import canonical_json, parse_json

JOURNAL = "journal.json"
STAGE = ".next"  # where jobs write what is to take another's place; it goes with every change that is made
NEW = f"{STAGE}/new"


class Change(TypedDict):
    """`name`: the file in its place; `staged`: where its new content lies, null where it is removed; `old`, `new`:
    sha256 (hex) of the contents, null where there is none or, of a large old one, nobody knows it."""

    name: str
    staged: str | None
    old: str | None
    new: str | None


class Journal(TypedDict):
    """`changes`: in the order that they are made in."""

    schema_version: int
    changes: list[Change]


class Rewriting:
    """Collects changes of a folder. `known`: sha256 (hex) of files that are large, by name, from the manifest of
    before."""

    def __init__(self, folder: Folder, known: Mapping[str, str]) -> None:
        self.folder, self.known = folder, known
        self.changes: list[Change] = []
        folder.remove(NEW)  # of one that ended before its journal

    def put(self, name: str, content: Content) -> str:
        """Stages the new content of a file; its sha256 (hex)."""
        sha256 = hashlib.sha256()

        def counted(chunks: Iterable[bytes]) -> Iterable[bytes]:
            for chunk in chunks:
                sha256.update(chunk)
                yield chunk

        staged = f"{NEW}/{name}"
        self.folder.publish(staged, counted([content] if isinstance(content, bytes) else content))
        self.move(staged, name, sha256.hexdigest())
        return sha256.hexdigest()

    def move(self, staged: str, name: str, sha256: str) -> None:
        """Of a file that lies in the stage already."""
        self.changes.append({"name": name, "staged": staged, "old": self._old(name), "new": sha256})

    def remove(self, name: str) -> None:
        self.changes.append({"name": name, "staged": None, "old": self._old(name), "new": None})

    def _old(self, name: str) -> str | None:
        if name in self.known:
            return self.known[name]
        if name.endswith(".tar") or not self.folder.exists(name):
            return None
        return hashlib.sha256(self.folder.read(name)).hexdigest()

    def commit(self) -> None:
        """Publishes the journal and makes the changes."""
        journal: Journal = {"schema_version": 1, "changes": self.changes}
        self.folder.publish(JOURNAL, canonical_json(journal))
        _make(self.folder, journal, trusted=True)


def is_left(folder: Folder) -> bool:
    """Whether a command ended, or still is, between its journal and the last of its changes."""
    return folder.exists(JOURNAL)


def settle(folder: Folder) -> None:
    """Finishes what a command that ended began to change. To be called by who holds the folder alone."""
    if is_left(folder):
        _make(folder, parse_json(folder.read(JOURNAL)), trusted=False)
        folder.sweep()


def _make(folder: Folder, journal: Journal, trusted: bool) -> None:
    """Makes the changes that are not made yet. A staged file that was damaged meanwhile (looked for unless `trusted`)
    does not take its place: the manifest that comes with it tells of that, and a repair mends it."""
    folder.check_held()
    for change in journal["changes"]:
        staged = change["staged"]
        if staged is None:
            folder.remove(change["name"])
        elif trusted or _is(folder, staged, change["new"]):
            folder.move(staged, change["name"])
    folder.remove(JOURNAL)
    folder.remove(STAGE)


def _is(folder: Folder, name: str, sha256: str | None) -> bool:
    if not folder.exists(name):
        return False  # it is in its place
    with folder.open(name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256  # type: ignore[arg-type]
