"""Folders on a local disk, where a writer of an earlier run may still be at work."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from lucidflux_data.storage.folder import Folder


def test_sweeping_beside_a_writer_raises_nothing_and_ends_clean(tmp_path: Path) -> None:
    folder, temporary = Folder(tmp_path), tmp_path / ".tmp"
    done = threading.Event()
    died: list[Exception] = []

    def write() -> None:
        number = 0
        while not done.is_set():
            try:
                with contextlib.suppress(FileNotFoundError, FileExistsError):  # swept between the two lines
                    temporary.mkdir(exist_ok=True)
                    (temporary / f"{(number := number + 1)}.part").touch()
            except Exception as error:
                died.append(error)
                return

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            folder.sweep()
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert died == []
    folder.sweep()
    assert not temporary.exists()
