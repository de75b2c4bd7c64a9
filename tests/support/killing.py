"""Commands that end, as by SIGKILL, after a publish or a rename of a chosen number."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.storage import journal, lease
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


@contextlib.contextmanager
def struck_after_rename(
    monkeypatch: pytest.MonkeyPatch, below: Path, number: int, error: OSError | None = None
) -> Iterator[list[str]]:
    """Ends whatever renames a file or folder to a name below `below`, right after the rename of this number, and lets
    nothing there be removed or renamed by what cleans up behind it; or, with `error`, that rename and all further ones
    fail with it. Gives the names of those so far. A lease is let go: its holder, this process, does not end.
    """
    names: list[str] = []
    killed = False

    def counted(call: Any) -> Any:
        def rename(source: Any, target: Any, **options: Any) -> None:
            nonlocal killed
            if not Path(target).is_relative_to(below) or Path(target).name == lease.NAME:
                return call(source, target, **options)
            if killed:
                raise Killed
            if error is not None and len(names) + 1 >= number:
                raise error
            call(source, target, **options)
            names.append(str(Path(target).relative_to(below)))
            if len(names) == number:
                killed = True
                raise Killed

        return rename

    def kept(call: Any) -> Any:
        def remove(path: Any, **options: Any) -> None:
            inside = "dir_fd" in options or Path(path).is_relative_to(below)
            if killed and inside and Path(path).name != lease.NAME:
                raise Killed
            call(path, **options)

        return remove

    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            patch.setattr(os, name, counted(getattr(os, name)))
        for name in ("unlink", "remove", "rmdir"):
            patch.setattr(os, name, kept(getattr(os, name)))
        with contextlib.suppress(Killed):
            yield names
