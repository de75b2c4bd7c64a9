"""run.json as an earlier version wrote it, or as somebody changed it who knows of no seal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from lucidflux_data.storage.run_folder import SEAL


def rewrite_run(run: Path, about: Mapping[str, object]) -> None:
    """Writes run.json without the sha256 of its own content."""
    (run / "run.json").write_text(json.dumps({name: value for name, value in about.items() if name != SEAL}))
