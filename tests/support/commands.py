"""What a command says at its end, taken at its word."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cli import app, data_app
from tests.support.doc_blocks import resolve_settings
from tests.support.paths import ROOT

PROGRAMS = {"lucidflux": app, "lucidflux-data": data_app}
PLACEHOLDER = re.compile(r"[A-Z]+")  # a word that the reader puts something in place of
MADE = ("out",)  # parameters that name what is made


def next_commands(said: str, of: str) -> list[str]:
    """The commands under `next:`, of which there is one at least; each is parsed by its program, its settings are ones
    that there are, and the places that it names are there. `of`: the command that said them, as `lucidflux train`;
    `told_of` finds it."""
    lines = said.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("next:")), None)
    assert start is not None, f"{of} does not say what comes next"
    told = [lines[start], *(line for line in lines[start + 1 :] if line.startswith(" " * 9))]
    commands = [line[9:].partition("   # ")[0] for line in told]
    for command in commands:
        check(command)
    return commands


def check(command: str) -> None:
    """Raises what click raises of a command line that is none; ConfigError for a setting that there is not."""
    context = parse(command)
    values = dict(context.params)
    given = [one for one in values.get("set_") or [] if not PLACEHOLDER.fullmatch(one.partition("=")[2])]
    resolve_settings(context.command_path, {**values, "set_": given})
    for name, value in values.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name not in MADE and str(one).startswith("/"):
                places = (str(one), str(one).rpartition(":")[0] or str(one))  # RESULTS:METHOD of `bench compare`
                assert any(Path(place).exists() for place in places), f"{command}: there is no {one}"


def parse(command: str) -> Any:
    """The context of the verb. Raises what click raises of a command line that is none."""
    name, *rest = shlex.split(command)
    context: Any = typer.main.get_command(PROGRAMS[name]).make_context(name, rest)
    while hasattr(context.command, "resolve_command"):
        left = [*context._protected_args, *context.args]
        name, verb, rest = context.command.resolve_command(context, left)
        context = verb.make_context(name, rest, parent=context)
    return context


def told_of() -> set[str]:
    """The commands whose end is read by some test: what `next_commands` is called with as `of`, in any test file."""
    return {of for path in sorted((ROOT / "tests").rglob("test_*.py")) for of in _read_in(path)}


def _read_in(path: Path) -> Iterator[str]:
    text = path.read_text()
    for node in ast.walk(ast.parse(text if "next_commands(" in text else "")):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "next_commands" and len(node.args) == 2:
            of = node.args[1]
            if isinstance(of, ast.Constant):
                yield str(of.value)
