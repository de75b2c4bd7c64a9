"""A tar that is read once from its beginning and hashed on the way, or a part of one."""

from __future__ import annotations

import hashlib
import io
import os
from typing import cast

from lucidflux_data.storage.folder import Folder

CHUNK = 1 << 20  # bytes of what nobody asks for that are hashed at a time


class TarReader:
    """Bytes of a tar by their places. FileNotFoundError where it is missing.

    Without a `span` (start, end) all of it is read, in order, and has a sha256 at the end; with one, bytes of that span
    alone. From an object store that is one request.
    """

    def __init__(self, folder: Folder, name: str, span: tuple[int, int] | None = None) -> None:
        self._start = 0
        if folder.is_local:
            self._file: io.BufferedIOBase = cast(io.BufferedIOBase, folder.open(name))
            self._size = os.fstat(self._file.fileno()).st_size
        else:
            data = folder.read(name) if span is None else folder.read_range(name, *span)
            self._start = 0 if span is None else span[0]
            self._file, self._size = io.BytesIO(data), self._start + len(data)
        self._hash = hashlib.sha256() if span is None else None
        self._hashed = 0  # bytes of the tar, from its beginning
        self._room = bytearray(CHUNK)  # used again and again: new memory costs more than a checksum of what is in it

    def take(self, start: int, end: int) -> memoryview:
        """Bytes `start` to `end` (not included), fewer where the tar ends, valid until the next call. What lies before
        them is hashed, too."""
        start, end = max(self._start, start), min(self._size, end)
        if self._hash is None or start < self._hashed:
            self._file.seek(start - self._start)
            data = self._read(end - start)
            if self._hash is not None:
                self._file.seek(self._hashed)
            return data
        self._pass(start)
        data = self._read(end - start)
        self._add(data)
        return data

    def finish(self) -> str:
        """The sha256 (hex) of the whole tar."""
        assert self._hash is not None, "it was asked for"
        self._pass(self._size)
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()

    def _pass(self, end: int) -> None:
        while self._hashed < end:
            data = self._read(min(CHUNK, end - self._hashed))
            if not data:
                return  # cut meanwhile: the hash tells
            self._add(data)

    def _read(self, size: int) -> memoryview:
        if size > len(self._room):
            self._room = bytearray(size)
        view = memoryview(self._room)[: max(0, size)]
        return view[: self._file.readinto(view)]

    def _add(self, data: memoryview) -> None:
        assert self._hash is not None, "it was asked for"
        self._hash.update(data)
        self._hashed += len(data)
