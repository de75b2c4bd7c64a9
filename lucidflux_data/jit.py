"""One way to compile: numba with an on-disk cache, so that a node compiles a function once and not once a process.

numba keeps its cache beside the source, else in the user's cache folder; where neither can be written (a read-only
image, no home) it refuses to import. Then a folder of the user's own under the system's temporary directory is used, or
no cache at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def private_folder(parent: str) -> str | None:
    """A folder of this user alone below `parent`, made now or before; None where there can be none.

    numba unpickles what it finds in its cache, so nobody else may have laid anything there: it is made with mode 0700
    and never through a link, one that is there must be a real folder of ours that others cannot enter, and `parent`
    must not let others rename it (/tmp has the sticky bit for that).
    """
    folder = os.path.join(parent, f"lucidflux-numba-{os.getuid()}")
    try:
        above = os.stat(parent)
        if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
            return None
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)
        there = os.lstat(folder)
    except OSError:
        return None
    ours = stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077
    return folder if ours else None


def compiled(function: Function) -> Function:
    """`function` compiled on first call, cached on disk; no fastmath and no threads, so results do not vary."""
    return _compiled(function, False)


def fused(function: Function) -> Function:
    """As `compiled`, where a product and the sum that takes it may be rounded once (FMA). The order of the sums stays
    that of the source, so results are equal on every processor that has FMA."""
    return _compiled(function, {"contract"})


def _compiled(function: Function, fastmath: Any) -> Function:
    try:
        made: Function = numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
    except RuntimeError:  # "cannot cache function ...: no locator available"
        folder = private_folder(tempfile.gettempdir())
        if folder is not None:
            numba.config.CACHE_DIR = folder
        made = numba.njit(cache=folder is not None, nogil=True, fastmath=fastmath)(function)
    return made
