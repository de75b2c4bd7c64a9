"""The locks of requirements/ hold what pyproject.toml asks for, each with a hash."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

NODE = ("cluster", "s3", "gcs", "formats", "hub")  # of the images
EXTRAS = {"demo": (), "demo-full": ("model", "realesrgan"), "docs": ("docs",), "dev": ("all",),
          "cluster": NODE, "cuda": (*NODE, "clip", "model", "networks")}  # fmt: skip
LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}(  # (?P<bytes>\d+))?")
MOST_BYTES = 300e6  # that `make demo` downloads


def asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    """The requirements of the project with these extras, those that name extras of its own unfolded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, todo = [Requirement(line) for line in project["dependencies"]], list(extras)
    while todo:
        for requirement in map(Requirement, project["optional-dependencies"][todo.pop()]):
            if requirement.name == project["name"]:
                todo += requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_holds_each_requirement_at_a_version_that_fits(lock: str) -> None:
    lines = (ROOT / "requirements" / f"{lock}-py311.txt").read_text().splitlines()
    matches = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in matches
    versions = {canonicalize_name(match["name"]): match["version"] for match in matches if match}
    wrong = [
        str(requirement)
        for requirement in asked_for(EXTRAS[lock])
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert wrong == []


def test_the_demo_downloads_no_more_than_it_promises() -> None:
    lines = (ROOT / "requirements" / "demo-py311.txt").read_text().splitlines()
    sizes = [match["bytes"] for match in map(LINE.fullmatch, lines) if match]
    assert None not in sizes
    assert sum(map(int, sizes)) < MOST_BYTES


def test_the_demo_runs_on_the_oldest_ray_pyarrow_and_numba_that_are_admitted() -> None:
    lock = (ROOT / "requirements" / "demo-py311.txt").read_text().splitlines()
    versions = {match["name"]: match["version"] for match in map(LINE.fullmatch, lock) if match}
    floors = {each.name: next(iter(each.specifier)).version for each in asked_for(())}
    for name in ("ray", "pyarrow", "numba"):
        assert Version(versions[name]) == Version(floors[name])


def test_no_lock_names_a_host() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text()
