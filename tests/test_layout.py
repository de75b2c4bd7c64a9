"""The import rules and the size limits of the code base, checked on the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("lucidflux_data", "lucidflux_model", "pipelines", "benchmarks")
SOURCES = [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
LAYER = {"lucidflux_data": 0, "lucidflux_model": 1, "benchmarks": 1, "pipelines": 2, "cli": 3}
EXEMPT = "throughput"  # benchmarks/throughput*.py measure every layer


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def top(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    if path.parent.name == EXEMPT:
        return
    tops = {name.split(".")[0] for name in imported(path)}
    for name in tops & LAYER.keys() - {top(path)}:
        assert LAYER[name] < LAYER[top(path)], f"{path.name} imports {name}"
    assert "ray" not in tops or top(path) == "pipelines"
    assert "pyiqa" not in tops or path.as_posix().endswith("lucidflux_data/iqa/metrics.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name


def test_importing_the_data_package_loads_neither_ray_nor_torch() -> None:
    code = "import sys, lucidflux_data, lucidflux_data.measures.blur_and_flat, lucidflux_data.shards.shard; "
    code += "sys.exit(bool({'ray', 'torch', 'pyiqa'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
