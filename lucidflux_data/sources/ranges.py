"""A part of an object in a store, as far as the object goes: a request that past its end is refused (416) gives
nothing, and of a web server that takes no ranges and sends everything the part is taken out."""

from __future__ import annotations

from typing import Any

from fsspec.asyn import sync

from lucidflux_data.storage.folder import file_system
from lucidflux_data.storage.refusals import is_past_the_end

WEB_BYTES = 1 << 20  # of an answer, taken at a time


def fetch_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of an object, fewer where it ends before; one attempt. The error of the client library,
    and OSError for an answer that breaks off."""
    fs = file_system(url)
    try:
        if url.startswith(("http://", "https://")):
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
