"""Objects of a store, whole or in parts, and web servers that take no ranges.

A part goes as far as the object does: a request past its end, which is refused (416), gives nothing. Of a server that
sends everything whatever is asked, the part is taken out; a tar or a table of it, which is read here and there, is
fetched into a temporary file.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO, Any

from fsspec.asyn import sync

from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import file_system, retry_call
from lucidflux_data.storage.refusals import is_past_the_end
from lucidflux_data.storage.regular import MOST_WHOLE

WEB = ("http://", "https://")
WEB_BYTES = 1 << 20  # of an answer, taken at a time
IN_MEMORY = 32 << 20  # of what is fetched whole; more lies on the disk


def open_object(url: str) -> IO[bytes]:
    """A file of any file system, to be read here and there. InputError where a server takes no ranges and the temporary
    folder has no room for all of it; StorageError, PermissionError, FileNotFoundError, and errors of the client.
    """
    fs = file_system(url)
    if not url.startswith(WEB) or retry_call(lambda: sync(fs.loop, _takes_ranges, fs, url), url):
        opened: IO[bytes] = fs.open(url, "rb")
        return opened
    whole = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
    try:
        with fs.open(url, block_size=0, size=1) as answer:
            while part := answer.read(WEB_BYTES):
                if whole.tell() > MOST_WHOLE:  # a server may send for ever
                    raise InputError(
                        f"{url} lies on a server that takes no ranges, and is too large to be fetched whole"
                    )
                whole.write(part)
    except BaseException as error:
        whole.close()
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise InputError(
                f"{url} lies on a server that takes no ranges, and cannot be kept in {tempfile.gettempdir()}: "
                f"{os.strerror(error.errno)}"
            ) from None
        raise
    whole.seek(0)
    return whole


async def _takes_ranges(fs: Any, url: str) -> bool:
    """Asked by a request, since servers need not announce it."""
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
        if answer.status != 416:  # of an empty file
            fs._raise_not_found_for_status(answer, url)
        return answer.status in (206, 416)


def fetch_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of an object, fewer where it ends before; one attempt. The error of the client library,
    and OSError for an answer that breaks off."""
    fs = file_system(url)
    try:
        if url.startswith(WEB):
            data = bytes(sync(fs.loop, _of_web, fs, url, start, end))
        else:
            data = bytes(fs.cat_file(url, start=start, end=end))
    except Exception as error:  # each client library has errors of its own
        if is_past_the_end(error):
            return b""
        raise
    if len(data) < end - start and int(fs.info(url).get("size") or 0) >= end:
        raise OSError("the answer was shorter than what was asked for")
    return data


async def _of_web(fs: Any, url: str, start: int, end: int) -> bytes:
    """No more is held than what is asked for, and no more is taken than leads to its end."""
    session = await fs.set_session()
    parts = []
    async with session.get(fs.encode_url(url), headers={"Range": f"bytes={start}-{end - 1}"}) as answer:
        if answer.status == 416:
            return b""
        fs._raise_not_found_for_status(answer, url)
        at = start if answer.status == 206 else 0
        async for part in answer.content.iter_chunked(WEB_BYTES):
            if at + len(part) > start:
                parts.append(part[max(0, start - at) : end - at])
            at += len(part)
            if at >= end:
                break
    return b"".join(parts)
