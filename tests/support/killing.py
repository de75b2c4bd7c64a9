"""Commands that end, as by SIGKILL, after a publish or a rename of a chosen number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.storage import journal
from lucidflux_data.storage.folder import Folder


class Killed(BaseException):
    """Not to be caught, as SIGKILL is not."""


@contextlib.contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """Ends whatever publishes or moves a file into its place, right after the one of this number. Gives the names of
    those so far."""
    names: list[str] = []
    publish, move, remove = Folder.publish, Folder.move, Folder.remove

    def counted(folder: Folder, name: str) -> None:
        names.append(name)
        if len(names) == number:
            if folder.is_local:
                (Path(folder.root) / ".tmp").mkdir(exist_ok=True)
                (Path(folder.root) / ".tmp" / "0123456789abcdef.part").write_bytes(b"half a file with pixels")
            raise Killed

    def published(self: Folder, name: str, content: Any) -> None:
        publish(self, name, content)
        counted(self, name)

    def moved(folder: Folder, name: str, target: str) -> None:
        move(folder, name, target)
        counted(folder, f"move {target}")

    def removed(self: Folder, name: str) -> None:
        remove(self, name)
        if name == journal.JOURNAL:
            counted(self, "remove journal")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", published)
        patch.setattr(Folder, "remove", removed)
        patch.setattr(Folder, "move", moved)
        with contextlib.suppress(Killed):
            yield names
