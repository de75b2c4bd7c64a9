"""The wheel, installed in an environment of its own, does what the checkout does: nothing of it is left behind."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.commands import next_commands
from tests.support.layout import PACKAGES
from tests.support.paths import ROOT

DECOYS = (*PACKAGES, "cli", "tests")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds the wheel alone; the libraries are this one's."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in tracked.split("\0"):
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(place / "env", with_pip=False, symlinks=True)
    packages = next((place / "env").glob("lib/python*/site-packages"))
    # A .pth file inside an added folder is not read, so that an editable install of the checkout stays out of the way.
    libraries = [path for path in dict.fromkeys([*site.getsitepackages(), *sys.path]) if "site-packages" in path]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    command = [*pip, "--python", str(place / "env" / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*command, "--ignore-installed", str(next(place.glob("*.whl")))], check=True, capture_output=True)
    return place / "env" / "bin"


@pytest.mark.timeout(600)
def test_the_wheel_runs_the_demo_from_another_folder_with_decoys_beside_it(installed: Path, tmp_path: Path) -> None:
    for name in DECOYS:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the decoy {name} was imported')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [str(installed / "lucidflux"), "demo", "--executor", "local", "--num-cpus", "2", "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kept"] == told["verified"] > 0
    assert told["pairs_samples"] == told["pairs_verified"] == 4 * told["kept"]
    assert told["ranked_methods"] == 4
    assert (tmp_path / "demo" / "run" / "report.html").stat().st_size > 10_000
    said = subprocess.run(
        command[:-1], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert "look at: " in said.stdout
    explain, explore, filter_ = next_commands(said.stdout, "lucidflux demo")
    assert (tmp_path / explain.split()[2] / "run.json").is_file()
    assert (tmp_path / explore.split()[2] / "run.json").is_file()
    assert filter_ == "lucidflux-data filter PHOTOS --out RUN --preset demo"
    where = subprocess.run(
        [str(installed / "python"), "-c", "import lucidflux_data; print(lucidflux_data.__file__)"],
        cwd=tmp_path / "demo",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)


def test_every_file_that_is_read_at_run_time_is_in_the_wheel(installed: Path) -> None:
    packages = next(installed.parent.glob("lib/python*/site-packages"))
    tracked = subprocess.run(["git", "ls-files", "-z", *PACKAGES], cwd=ROOT, capture_output=True, check=True, text=True)
    names = [
        name for name in tracked.stdout.split("\0") if name and Path(name).suffix != ".md" and "results/" not in name
    ]
    assert [name for name in names if (ROOT / name).is_file() and not (packages / name).is_file()] == []
    assert not (packages / "tests").exists()
