"""`lucidflux doctor` against what pip knows of this environment, and against environments that lack something."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lucidflux_data.errors import ConfigError
from pipelines.commands import doctor

LUCIDFLUX = str(Path(sys.executable).with_name("lucidflux"))


def with_versions(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]) -> None:
    """Some distributions stand in another version, or (None) are not there."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in changed and changed[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_command_tells_of_this_machine() -> None:
    done = subprocess.run([LUCIDFLUX, "doctor", "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["python"] == sys.version.split()[0]
    assert told["extras"]["model"] == told["extras"]["iqa"] == "ready"
    version = subprocess.run([LUCIDFLUX, "--version"], capture_output=True, text=True, timeout=60).stdout
    assert version.strip() == told["lucidflux"] == importlib.metadata.version("lucidflux")


def test_what_an_extra_lacks_is_named_through_the_extras_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.lacking("bench") == set()
    with_versions(monkeypatch, {"pyiqa": None, "setuptools": "82.0", "s3fs": "2020.1"})
    lacking = {"pyiqa==0.1.16", "setuptools<81 (here 82.0)"}
    assert doctor.lacking("bench") == doctor.lacking("iqa") == lacking
    assert doctor.lacking("s3") == {"s3fs>=2025.2 (here 2020.1)"}
    assert doctor.lacking("demo") == set()


def test_two_builds_of_opencv_of_different_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor.check_opencv()
    with_versions(monkeypatch, {"opencv-python": "4.11.0", "opencv-python-headless": "5.0.0"})
    with pytest.raises(ConfigError, match=r"pip install opencv-python==5\.0\.0 && .*headless==5\.0\.0"):
        doctor.check_opencv()
