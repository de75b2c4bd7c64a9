"""Where this toolkit keeps what can be made again: below the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def own_cache() -> Path:
    """The toolkit's folder of the user's cache: below $XDG_CACHE_HOME on every system, else where the system has it
    (~/.cache on Linux)."""
    # asked for here, since platformdirs ignores a relative $XDG_CACHE_HOME, which was always taken
    return Path(os.environ.get("XDG_CACHE_HOME") or platformdirs.user_cache_path()) / "lucidflux"
