"""Files of this machine that strangers may have laid: only regular ones are opened, and only so much is read."""

from __future__ import annotations

import os
import stat
from typing import IO

from lucidflux_data.errors import ImageError, InputError

MOST_WHOLE = 1 << 34  # bytes; a table of 10^8 rows has a tenth of it
NOT_REGULAR = "it is no regular file: a pipe, a socket or a device is not opened"


def is_special(path: str) -> bool:
    """Whether something is there that is neither a file nor a folder: opened, it would wait or never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to read, or the OSError of `open`; InputError for what is neither a file nor a folder. Looked at before it
    is opened, since opening a device may do something, and after, since another may stand there by then."""
    if is_special(os.fspath(path)):
        raise InputError(f"{os.fspath(path)}: {NOT_REGULAR}")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, os.strerror(21), os.fspath(path))
        raise InputError(f"{os.fspath(path)}: {NOT_REGULAR}")
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | os.PathLike[str], most: int, offset: int = -1, size: int = -1) -> bytes:
    """The bytes of a file, or those of a member inside it, which may be fewer where the file ends.

    ImageError: `unreadable` for what is no regular file, `too_many_bytes` where more than `most` would be read, before
    anything is; `out_of_memory`. Otherwise the OSError of `open`.
    """
    try:
        with open_regular(path) as file:
            total = os.fstat(file.fileno()).st_size
            if offset < 0:
                check_size(total, most)
                return file.read(total)
            there = max(0, min(size, total - offset))  # a damaged header may claim any size
            check_size(there, most)
            file.seek(offset)
            return file.read(there)
    except InputError:
        raise ImageError("unreadable", NOT_REGULAR) from None
    except MemoryError:
        raise ImageError("out_of_memory", "there is not enough memory to read it") from None


def check_size(size: int, most: int) -> None:
    """ImageError `too_many_bytes` for more than `most` bytes."""
    if size > most:
        raise ImageError("too_many_bytes", f"{size:,} bytes are more than decode.max_file_bytes ({most:,})")


def read_whole(file: IO[bytes], path: str) -> bytes:
    """A file of a folder of ours that is read whole. InputError for one larger than any of ours, or than the memory."""
    size = os.fstat(file.fileno()).st_size
    if size > MOST_WHOLE:
        raise InputError(f"{path} has {size:,} bytes: no file of ours that is read whole is as large")
    try:
        return file.read(size)
    except MemoryError:
        raise InputError(f"{path} has {size:,} bytes, which do not fit into memory") from None
