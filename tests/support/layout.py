"""The layout of the code base as figures, read off the source: `python -m tests.support.layout` prints them."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("lucidflux_data", "lucidflux_model", "pipelines", "benchmarks")
EXEMPT = ROOT / "benchmarks" / "throughput"  # measures every layer
SOURCES = [ROOT / "cli.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]
LAYER = {"lucidflux_data": 0, "lucidflux_model": 1, "benchmarks": 1, "pipelines": 2, "cli": 3}
# Rooms of lucidflux_data from the lowest floor up; rooms of one floor do not import each other.
FLOORS = (
    ("errors", "escapes", "jit", "messages", "numerics", "process"),
    ("config", "codecs", "page"),
    ("alarm", "decode_config"),
    ("storage", "degradation", "images"),
    ("in_memory", "isolation"),
    ("sources", "shards", "measures"),
    ("iqa", "tiles", "vectors"),
    ("selection",),
    ("pairs", "growth"),
    ("audit", "explore"),
    ("publish",),
    ("surface",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The modules of lucidflux_data.selection, each of which imports only those behind it.
SELECTION = (
    "decision",
    "suites",
    "ledger",
    "rules",
    "tiling",
    "columns",
    "pool",
    "run",
    "config",
    "expression",
    "options",
    "records",
)


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
    """The modules of this project that a module imports, and those that they import in turn."""
    found: set[str] = set()
    todo = [module]
    while todo:
        for name in imported(MODULES[todo.pop()]) & MODULES.keys() - found:
            found.add(name)
            todo.append(name)
    return found


def circles() -> list[str]:
    """The modules that reach themselves."""
    return [name for name in MODULES if name in reached(name)]


def imports_upward(path: Path) -> list[str]:
    """The modules of a higher or equal floor that a file imports: packages first, then the rooms of lucidflux_data."""
    if EXEMPT in path.parents:
        return []
    module = module_name(path)
    top = module.split(".")[0]
    wrong = [
        name for name in imported(path) if LAYER.get(name.split(".")[0], -1) >= LAYER[top] and name.split(".")[0] != top
    ]
    return sorted(wrong + _rooms_upward(module)) if top == "lucidflux_data" and "." in module else sorted(wrong)


def _rooms_upward(module: str) -> list[str]:
    room, *inner = module.split(".")[1:]
    wrong = []
    for name in imported(MODULES[module]):
        if not name.startswith("lucidflux_data"):
            continue
        if "." not in name:
            wrong.append(name)  # a module of the package does not import what the package exports
            continue
        other, *other_inner = name.split(".")[1:]
        if other != room:
            wrong += [name] * (FLOOR[other] >= FLOOR[room])
        elif room == "selection" and inner and other_inner:
            wrong += [name] * (SELECTION.index(other_inner[0]) <= SELECTION.index(inner[0]))
    return wrong


def folder_sizes() -> dict[str, int]:
    """Modules in each folder, `__init__` not counted."""
    return dict(Counter(str(path.parent.relative_to(ROOT)) for path in SOURCES if path.name != "__init__.py"))


def file_lengths() -> dict[str, int]:
    """Lines of each file."""
    return {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}


def function_lengths() -> dict[str, int]:
    """Lines of each function, by module and name."""
    return {
        f"{module}.{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def untyped_share(package: str) -> float:
    """How often `dict[str, Any]` stands in 1,000 lines of a package."""
    texts = [path.read_text() for name, path in MODULES.items() if name.split(".")[0] == package]
    return 1000 * sum(text.count("dict[str, Any]") for text in texts) / sum(text.count("\n") for text in texts)


def _largest(figures: dict[str, int]) -> str:
    name = max(figures, key=lambda each: figures[each])
    return f"{figures[name]} ({name})"


def main() -> None:
    upward = sum(len(imports_upward(path)) for path in SOURCES)
    print(f"modules {len(MODULES)}, lines {sum(file_lengths().values())}")
    print(f"modules in an import circle: {len(circles())}; imports upward: {upward}")
    print(f"largest folder: {_largest(folder_sizes())} modules")
    print(f"longest file: {_largest(file_lengths())} lines; longest function: {_largest(function_lengths())} lines")
    shares = ", ".join(f"{package} {untyped_share(package):.1f}" for package in PACKAGES)
    print(f"dict[str, Any] in 1,000 lines: {shares}")


if __name__ == "__main__":
    main()
