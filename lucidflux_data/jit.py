"""One way to compile: numba with an on-disk cache, so that a node compiles a function once and not once a process.

numba keeps its cache beside the source, else in the user's cache folder; where neither can be written (a read-only
image, no home) it refuses to import. Then a per-user folder under the system's temporary directory is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _fallback_cache_dir() -> str:
    folder = Path(tempfile.gettempdir()) / f"lucidflux-numba-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # somebody else's folder could hold somebody else's machine code
        return tempfile.mkdtemp(prefix="lucidflux-numba-")
    return str(folder)


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
        numba.config.CACHE_DIR = _fallback_cache_dir()
        made = numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
    return made
