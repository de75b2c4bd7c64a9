"""The import rules and the size limits of the code base, checked on the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import layout
from tests.support.paths import ROOT

MODULES_IN_A_FOLDER, LINES_IN_A_FILE, LINES_IN_A_FUNCTION = 12, 400, 60


@pytest.mark.parametrize("path", layout.SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    assert layout.imports_upward(path) == []
    if layout.EXEMPT in path.parents:
        return
    tops = {name.split(".")[0] for name in layout.imported(path)}
    assert "ray" not in tops or path.is_relative_to(ROOT / "pipelines")
    assert "typer" not in tops or path.is_relative_to(ROOT / "pipelines" / "commands") or path.name == "cli.py"
    assert "pyiqa" not in tops or layout.module_name(path) == "lucidflux_data.iqa.pyiqa_models"


def test_an_import_upward_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"lucidflux_data.storage.folder": frozenset({"lucidflux_data.audit.verify", "pipelines.filter.job"})}
    path = layout.MODULES["lucidflux_data.storage.folder"]
    monkeypatch.setattr(layout, "imported", lambda _: wrong["lucidflux_data.storage.folder"])
    assert layout.imports_upward(path) == ["lucidflux_data.audit.verify", "pipelines.filter.job"]


def test_every_room_of_the_data_package_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in layout.MODULES if name.startswith("lucidflux_data.")}
    assert rooms == layout.FLOOR.keys()
    in_selection = {name.split(".")[2] for name in layout.MODULES if name.startswith("lucidflux_data.selection.")}
    assert in_selection == set(layout.SELECTION)


def test_no_module_reaches_itself() -> None:
    assert layout.circles() == []


def test_no_folder_is_crowded() -> None:
    assert {name: n for name, n in layout.folder_sizes().items() if n > MODULES_IN_A_FOLDER} == {}


def test_files_and_functions_are_short() -> None:
    assert {name: n for name, n in layout.file_lengths().items() if n > LINES_IN_A_FILE} == {}
    assert {name: n for name, n in layout.function_lengths().items() if n > LINES_IN_A_FUNCTION} == {}


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("lucidflux_data, lucidflux_data.measures.blur_and_flat, lucidflux_data.shards.shard", "ray torch pyiqa"),
        ("lucidflux_data.selection.config, lucidflux_data.pairs.config", "ray torch cv2 numba"),
        ("lucidflux_data, benchmarks, lucidflux_model", "ray torch cv2 numba pyarrow pandas webdataset PIL pydantic"),
        (
            "lucidflux_data; from lucidflux_data import Run, Pairs, degrade, metric; from benchmarks import rank",
            "ray torch pyiqa pandas polars webdataset diffusers skimage",
        ),
        ("lucidflux_model.training.config, pipelines.restoration.config", "ray torch"),
    ],
)
def test_importing_loads_nothing_heavy(modules: str, unwanted: str) -> None:
    code = f"import sys, {modules}; sys.exit(' '.join(set({unwanted.split()!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
