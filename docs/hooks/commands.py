"""The pages of the two programs, made from the typer apps: every command, its arguments and its options."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import typer.main

import cli
from pipelines.commands.filter import app as data_app

APPS = {"lucidflux": cli.app, "lucidflux-data": data_app}


@cache
def read_program(name: str) -> Any:
    """The click command of a program."""
    return typer.main.get_command(APPS[name])


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(`lucidflux bench eval`, its command) of each command below, groups left out."""
    for below, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from walk(inner, f"{name} {below}")
        elif not inner.hidden:
            yield f"{name} {below}", inner


def describe_program(name: str) -> str:
    """The page, in Markdown."""
    top = read_program(name)
    commands = list(walk(top, name))
    lines = [f"# Commands of `{name}`\n", f"{top.help}\n", "| command | |", "|---|---|"]
    lines += [f"| [`{full}`](#{_anchor(full)}) | {_first_sentence(command)} |" for full, command in commands]
    lines += ["", "Exit codes and what to do: [troubleshooting](../troubleshooting.md). "
              "Every key of `--set`: [settings](settings.md).", ""]  # fmt: skip
    for full, command in commands:
        lines += _describe(full, command)
    return "\n".join(lines)


def _anchor(full: str) -> str:
    return full.replace(" ", "-")


def _first_sentence(command: Any) -> str:
    return _cell((command.help or "").split("\n\n")[0])


def _describe(full: str, command: Any) -> list[str]:
    usage = " ".join(
        [full, "[OPTION]...", *(_takes(one) for one in command.params if one.param_type_name == "argument")]
    )
    lines = [f"## {full} {{#{_anchor(full)}}}\n", f"{command.help}\n", f"```text\n{usage}\n```\n"]
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    options = [one for one in shown if one.param_type_name == "option"]
    if arguments:
        lines += ["| argument | default | |", "|---|---|---|", *map(_row, arguments), ""]
    if options:
        lines += ["| option | takes | default | |", "|---|---|---|---|", *map(_row, options), ""]
    return lines


def _row(parameter: Any) -> str:
    about = parameter.help or ""
    default = parameter.default
    shown = "required" if parameter.required else "" if default in (None, False, []) else f"`{_value(default)}`"
    if parameter.param_type_name == "argument":
        return f"| `{_cell(_takes(parameter))}` | {shown} | {_cell(about)} |"
    if parameter.multiple and not any(word in about for word in ("repeat", "everal")):
        about += " May be repeated."
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    takes = "" if parameter.is_flag else f"`{_cell(_takes(parameter))}`{_range(parameter)}"
    return f"| {names} | {takes} | {shown} | {_cell(about)} |"


def _value(default: object) -> str:
    return str(default.value if isinstance(default, Enum) else default)


def _takes(parameter: Any) -> str:
    """The metavar, the choices, or the kind of value."""
    if parameter.metavar is not None:
        return str(parameter.metavar)
    kind = parameter.type_descriptor.annotation
    kind = next(iter(get_args(kind)), kind)
    if issubclass(kind, Enum):
        return "|".join(choice.value for choice in kind)
    return {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}[kind]


def _range(parameter: Any) -> str:
    low, high = parameter.min, parameter.max
    return (f" from {low:g}" if low is not None else "") + (f" to {high:g}" if high is not None else "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
