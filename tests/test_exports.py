"""What the packages offer by name: `__all__` is whole, sorted and true, and each name says what it is."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator

import pytest

from tests.support.paths import ROOT

PACKAGES = ("lucidflux_data", "lucidflux_model", "pipelines", "benchmarks")
ROOMS = {
    ".".join(path.parent.relative_to(ROOT).parts): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("__init__.py"))
}


def listed(tree: ast.Module) -> list[str] | None:
    """`__all__` as it stands in the source; None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def bound(body: list[ast.stmt]) -> Iterator[str]:
    """Public names that a package defines, or imports from one of ours, also for type checkers alone."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in PACKAGES):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from bound(node.body)
            yield from bound(node.orelse)


EXPORTS = [(room, name) for room, tree in ROOMS.items() for name in listed(tree) or []]


def load(room: str, name: str) -> object:
    try:
        return getattr(importlib.import_module(room), name)
    except ImportError as error:
        if importlib.util.find_spec("torch") is not None:
            raise
        pytest.skip(str(error))  # of the extra `model`


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_package_binds_is_exported_and_sorted(room: str) -> None:
    public = {name for name in bound(ROOMS[room].body) if not name.startswith("_") and name.isidentifier()}
    names = listed(ROOMS[room])
    assert set(names or []) == public
    assert names is None or names == sorted(set(names))


@pytest.mark.parametrize(("room", "name"), EXPORTS)
def test_an_exported_name_exists_and_says_what_it_is(room: str, name: str) -> None:
    found = load(room, name)
    own = vars(found).get("__doc__") if isinstance(found, type) else found.__doc__  # not that of a base class
    assert own
    assert own.strip()
    assert f"\n    {name} " in (ast.get_docstring(ROOMS[room], clean=False) or ""), "the package lists what it exports"


def test_the_data_package_exports_what_users_import() -> None:
    wanted = {"Pairs", "RealESRGANPairs", "Run", "decode", "degrade", "metric"}
    assert {name for room, name in EXPORTS if room == "lucidflux_data"} >= wanted
    assert {("benchmarks", "rank"), ("lucidflux_model", "restore")} <= set(EXPORTS)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = importlib.import_module("lucidflux_data").nothing_of_this_name
