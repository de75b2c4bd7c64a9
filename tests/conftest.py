"""Real photos (scikit-image's bundled ones) and small run folders that tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))


@pytest.fixture(scope="session")
def photo_paths() -> list[Path]:
    from pipelines.demo import bundled_photos

    return bundled_photos()


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder: bundled photos, and one planted image for each reason."""
    from pipelines.demo import make_candidates

    return make_candidates(tmp_path_factory.mktemp("candidates") / "photos")


@pytest.fixture(scope="session")
def data_command():
    """Runs the installed `lucidflux-data` as a user would; `cwd` and `env` may be given."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)

    return call
