"""A folder, zip or tar as one thing that has names and bytes."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lucidflux_data.decode_config import DEFAULT_MAX_FILE_BYTES
from lucidflux_data.errors import ImageError, InputError
from lucidflux_data.sources.reading import read_file


class Archive:
    """The files of a folder, zip or tar, by their names inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() and zipfile.is_zipfile(path) else None
        is_tar = path.is_file() and self._zip is None
        self._tar = tarfile.open(path) if is_tar else None  # noqa: SIM115 - closed by `close`

    def names(self) -> Iterator[str]:
        if self._zip is not None:
            yield from (entry.filename for entry in self._zip.infolist() if not entry.is_dir())
        elif self._tar is not None:
            yield from (member.name.removeprefix("./") for member in self._tar if member.isfile())
        else:
            for folder, _, files in os.walk(self.path, followlinks=True):
                yield from (Path(folder, file).relative_to(self.path).as_posix() for file in files)

    def read(self, name: str) -> bytes:
        if self._zip is not None:
            self._check(name, self._zip.getinfo(name).file_size)
            return self._zip.read(name)
        if self._tar is not None:
            member = next(member for member in self._tar.getmembers() if member.name.removeprefix("./") == name)
            self._check(name, member.size)
            file = self._tar.extractfile(member)
            assert file is not None, "only files are listed"
            return file.read()
        try:
            return read_file(self.path / name)
        except ImageError as error:
            raise InputError(f"{self.path / name} is {error.reason}: {error.detail}") from None

    def _check(self, name: str, size: int) -> None:
        if size > DEFAULT_MAX_FILE_BYTES:
            raise InputError(f"{name} in {self.path} has {size:,} bytes, more than the {DEFAULT_MAX_FILE_BYTES:,} read")

    def close(self) -> None:
        for file in (self._zip, self._tar):
            if file is not None:
                file.close()


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """InputError for a path that is not there, or is neither a folder, a zip nor a tar."""
    if not path.exists():
        raise InputError(f"{path} is not there")
    try:
        archive = Archive(path)
    except (tarfile.TarError, zipfile.BadZipFile):
        raise InputError(f"{path} is neither a folder, a zip nor a tar") from None
    try:
        yield archive
    finally:
        archive.close()
