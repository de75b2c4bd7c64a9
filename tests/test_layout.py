"""The import rules and the size limits of the code base, checked on the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("lucidflux_data", "lucidflux_model", "pipelines", "benchmarks")
EXEMPT = ROOT / "benchmarks" / "throughput"  # measures every layer
SOURCES = [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
LAYER = {"lucidflux_data": 0, "lucidflux_model": 1, "benchmarks": 1, "pipelines": 2, "cli": 3}
# Rooms of lucidflux_data from the lowest floor up; rooms of one floor do not import each other.
FLOORS = (
    ("errors", "jit", "page"),
    ("config", "codecs"),
    ("decode_config",),
    ("storage", "degradation", "images"),
    ("sources", "shards", "measures"),
    ("iqa",),
    ("selection",),
    ("pairs",),
    ("audit",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The modules of lucidflux_data.selection, each of which imports only those behind it.
SELECTION = ("ledger", "rules", "columns", "pool", "run", "config", "expression", "records")
MODULES_IN_A_FOLDER, LINES_IN_A_FILE, LINES_IN_A_FUNCTION = 12, 400, 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module}
            names |= {node.module} if inner - MODULES.keys() else set()
    return frozenset(names)


def reached(module: str) -> set[str]:
    found: set[str] = set()
    todo = [module]
    while todo:
        for name in imported(MODULES[todo.pop()]) & MODULES.keys() - found:
            found.add(name)
            todo.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    if EXEMPT in path.parents:
        return
    top = module_name(path).split(".")[0]
    tops = {name.split(".")[0] for name in imported(path)}
    for name in tops & LAYER.keys() - {top}:
        assert LAYER[name] < LAYER[top], f"{path.name} imports {name}"
    assert "ray" not in tops or top == "pipelines"
    assert "typer" not in tops or path.is_relative_to(ROOT / "pipelines" / "commands") or path.name == "cli.py"
    assert "pyiqa" not in tops or module_name(path) == "lucidflux_data.iqa.pyiqa_models"


def test_every_room_of_the_data_package_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in MODULES if name.startswith("lucidflux_data.")}
    assert rooms == FLOOR.keys()
    in_selection = {name.split(".")[2] for name in MODULES if name.startswith("lucidflux_data.selection.")}
    assert in_selection == set(SELECTION)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("lucidflux_data.")])
def test_a_lower_floor_never_imports_a_higher_one(module: str) -> None:
    room, *inner = module.split(".")[1:]
    for name in imported(MODULES[module]):
        if not name.startswith("lucidflux_data"):
            continue
        assert "." in name, f"{module} imports from lucidflux_data itself"
        other, *other_inner = name.split(".")[1:]
        assert other == room or FLOOR[other] < FLOOR[room], f"{module} imports {name}"
        if room == other == "selection" and inner and other_inner:
            assert SELECTION.index(other_inner[0]) > SELECTION.index(inner[0]), f"{module} imports {name}"


def test_no_module_reaches_itself() -> None:
    assert [name for name in MODULES if name in reached(name)] == []


def test_no_folder_is_crowded() -> None:
    count = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    crowded = {str(folder.relative_to(ROOT)): n for folder, n in count.items() if n > MODULES_IN_A_FOLDER}
    assert crowded == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES_IN_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LINES_IN_A_FUNCTION, node.name


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("lucidflux_data, lucidflux_data.measures.blur_and_flat, lucidflux_data.shards.shard", "ray torch pyiqa"),
        ("lucidflux_data.selection.config, lucidflux_data.pairs.config", "ray torch cv2 numba"),
    ],
)
def test_importing_loads_nothing_heavy(modules: str, unwanted: str) -> None:
    code = f"import sys, {modules}; sys.exit(' '.join(set({unwanted.split()!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
