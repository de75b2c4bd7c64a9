"""What a command says at its end, taken at its word."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from cli import app, data_app

PROGRAMS = {"lucidflux": app, "lucidflux-data": data_app}


def next_commands(said: str) -> list[str]:
    """The commands under `next:`, of which there is one at least; each is parsed by its program, with every option."""
    lines = said.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("next:"))
    told = [lines[start], *(line for line in lines[start + 1 :] if line.startswith(" " * 9))]
    commands = [line[9:].partition("   # ")[0] for line in told]
    for command in commands:
        parse(command)
    return commands


def parse(command: str) -> Any:
    """The context of the verb. Raises what click raises of a command line that is none."""
    name, *rest = shlex.split(command)
    context: Any = typer.main.get_command(PROGRAMS[name]).make_context(name, rest)
    while hasattr(context.command, "resolve_command"):
        left = [*context._protected_args, *context.args]
        name, verb, rest = context.command.resolve_command(context, left)
        context = verb.make_context(name, rest, parent=context)
    return context
