"""Where things are: the tree, the data of tests, and the installed commands."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
LUCIDFLUX = str(Path(sys.executable).with_name("lucidflux"))
LUCIDFLUX_DATA = str(Path(sys.executable).with_name("lucidflux-data"))
