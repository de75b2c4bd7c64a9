"""Docstrings as Markdown, for the page of Python: `name: meaning` becomes an item of a list, doctests become code.

An extension of griffe, which mkdocs.yml names; the docstrings themselves are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

import griffe

ITEM = re.compile(r"(?P<name>\w+): (?P<text>.+)")


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for thing in walk(pkg):
            if thing.docstring is not None:
                names = {parameter.name for parameter in getattr(thing, "parameters", ())} | set(thing.members)
                thing.docstring.value = to_markdown(thing.docstring.value, names)


def walk(thing: griffe.Object) -> Iterator[griffe.Object]:
    """An object and all that is defined below it; what it imports is left out."""
    yield thing
    for member in thing.members.values():
        if not member.is_alias:
            yield from walk(member)  # type: ignore[arg-type]


def to_markdown(text: str, names: Container[str]) -> str:
    """`names`: parameters and attributes, whose lines are items; any other `word: ...` stays a sentence."""
    lines: list[str] = []
    in_item = False
    in_code = False
    for line in text.splitlines():
        prompt = line.startswith(">>> ")
        if in_code and not line.strip():
            lines.append("```")
            in_code = False
        elif prompt and not in_code:
            lines += ["", "```pycon"]
            in_code = True
        if in_code:
            lines.append(line)
            in_item = False
            continue
        match = ITEM.fullmatch(line)
        if match and match["name"] in names:
            lines += [] if in_item else [""]
            line, in_item = f"- `{match['name']}`: {match['text']}", True
        elif in_item and line.startswith("Raises "):
            lines.append("")
            in_item = False
        elif in_item:
            in_item = bool(line.strip())
            line = f"  {line}" if in_item else line
        lines.append(line)
    return "\n".join([*lines, "```"] if in_code else lines)
