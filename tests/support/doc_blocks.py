"""The shell blocks of README.md and docs/: their marks, their commands one by one, and whether the apps take these."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.layout import PACKAGES
from tests.support.paths import ROOT

MARKS = ("needs-weights", "needs-gpu", "needs-cluster", "needs-network", "needs-package", "long")
FIRST = ("README.md", "docs/quickstart.md", "docs/howto")  # pages whose commands later ones go on from
FENCE = re.compile(
    r"^(?:<!-- ?(?P<mark>.*?) ?-->\n+)?```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
PROGRAMS = ("lucidflux", "lucidflux-data")
OTHERS = ("cat", "cp", "curl", "docker", "export", "hf", "ls", "mkdir", "pytest", "ray", "sha256sum", "source", "tar")


@dataclass(frozen=True)
class Block:
    """A fenced block: `line` is that of its fence, `mark` the word in the comment before it, or nothing."""

    page: str
    line: int
    language: str
    mark: str
    text: str


def pages() -> list[Path]:
    """README.md, then the pages of docs/ in the order in which their commands are run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    order = {name: number for number, name in enumerate(FIRST)}

    def place(path: Path) -> tuple[int, str]:
        name = path.relative_to(ROOT).as_posix()
        return next((number for start, number in order.items() if name.startswith(start)), len(order)), name

    return sorted(found, key=place)


def read_blocks(path: Path) -> list[Block]:
    text = path.read_text()
    name = path.relative_to(ROOT).as_posix()
    blocks = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        blocks.append(Block(name, line, match["language"].strip(), match["mark"] or "", match["text"]))
    return blocks


def split_commands(text: str) -> list[str]:
    """The commands of a block of shell: lines that go on are joined, comments left out, `&&` parts them."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        start, quote, depth = 0, "", 0
        for place, sign in enumerate(f"{line} "):
            if quote:
                quote = "" if sign == quote else quote
            elif sign in "'\"":
                quote = sign
            elif sign in "()":
                depth += 1 if sign == "(" else -1
            elif depth == 0 and (
                line.startswith("&&", place) or (sign == "#" and line[:place].rstrip() != line[:place])
            ):
                commands.append(line[start:place])
                start = place + 2 if sign == "&" else len(line)
                if sign == "#":
                    break
            elif sign == "#" and place == 0:
                start = len(line)
                break
        commands.append(line[start:])
    return [command.strip() for command in commands if command.strip()]


def expand(command: str, folder: Path) -> list[str]:
    """The words of a simple command as bash makes them in `folder`, which is HOME too."""
    environment = os.environ | {"HOME": str(folder)}
    line = f"printf '%s\\0' {command}"
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, check=True, text=True)
    return done.stdout.split("\0")[:-1]


def check_command(command: str, folder: Path) -> None:
    """Raises where a command names a program, a subcommand, an option, a value or a setting that there is not."""
    first = command.split()[0]
    words = expand(command, folder) if first not in ("export", "sha256sum") else [first]
    words = words[next((i for i, word in enumerate(words) if "=" not in word), 0) :]
    own = next((number for number, word in enumerate(words) if word in PROGRAMS), None)
    if own is not None:
        assert words[0] in (*PROGRAMS, "docker", "ray", "torchrun"), f"{words[0]} starts no command of ours"
        check_words(words[own:])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), words
    elif Path(words[0]).name in ("pip", "python", "python3"):
        _check_python(words)
    elif words[0] == "taskset":
        _check_python(words[3:])
    else:
        assert words[0] in OTHERS, f"{words[0]} is no program that the pages use"


def _check_python(words: list[str]) -> None:
    if Path(words[0]).name == "pip" or words[1:3] == ["-m", "pip"]:
        import tomllib

        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert not any(word.startswith("lucidflux") for word in words), "no package index has the name: '.[extra]'"
        named = [
            name
            for word in words
            for some in re.findall(r"(?:lucidflux|\.)\[(.*)\]$", word)
            for name in some.split(",")
        ]
        assert set(named) <= set(extras), named
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None, words[2]
        if words[2] == "benchmarks.throughput.main":
            check_throughput(words[3:])
    else:
        assert (ROOT / words[1]).is_file(), words[1]


def check_throughput(words: list[str]) -> None:
    import typer.main

    from benchmarks.throughput.main import app

    _parse(typer.main.get_command(app), "throughput", words)


def check_words(words: list[str]) -> None:
    """One command of ours: parsed by the app as it is, its `--set` and its preset by the models."""
    from docs.hooks.commands import read_program

    top = read_program(words[0])
    if "--install-completion" in words:  # would change the shell's own files
        assert "--install-completion" in {name for parameter in top.params for name in parameter.opts}
        return
    name, values = _parse(top, words[0], words[1:])
    resolve_settings(name, values)


def _parse(command: Any, name: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    """(name of the command, the values of its parameters). Raises click's errors."""
    context = command.make_context(name, list(words))
    while hasattr(command, "commands"):
        rest = [*getattr(context, "_protected_args", getattr(context, "protected_args", [])), *context.args]
        below, command, rest = command.resolve_command(context, rest)
        name = f"{name} {below}"
        context = command.make_context(below, rest, parent=context)
    return name, context.params


def resolve_settings(name: str, values: dict[str, Any]) -> None:
    """Raises ConfigError where `--set`, `--preset` or `--config` of a command name what there is not."""
    from lucidflux_data.config import resolve
    from lucidflux_data.pairs.config import make_pairs_config
    from lucidflux_data.selection.config import make_config
    from lucidflux_model.training.config import make_train_config
    from pipelines.restoration.config import NetworkConfig, RestoreConfig, is_network_file

    settings = list(values.get("set_") or [])
    if name == "lucidflux-data synthesize":
        make_pairs_config(values["preset"], None, settings)
    elif name in ("lucidflux train", "lucidflux cache"):
        make_train_config(values["config"], settings)
    elif name == "lucidflux restore" and is_network_file(values["model"]):
        resolve(NetworkConfig, {"model": {"file": values["model"]}}, None, settings)
    elif name == "lucidflux restore":
        resolve(RestoreConfig, {}, None, settings)
    elif name.startswith("lucidflux-data "):
        make_config(values.get("preset", "lucidflux"), None, settings)


def check_python(text: str) -> None:
    """Raises where a block does not compile, or imports from this project a name that there is not."""
    compile(text, "block", "exec")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                getattr(module, alias.name)


def spans(path: Path) -> list[str]:
    """What stands between backticks inside sentences and begins as a command of ours, with or without the program."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?<!`)`([a-z][^`]+)`(?!`)", text)
    return [span for span in found if span.split()[0] in PROGRAMS or (span.split()[0] in verbs() and "--" in span)]


@cache
def verbs() -> set[str]:
    from docs.hooks.commands import read_program

    return {name for program in PROGRAMS for name in read_program(program).commands}


def is_known(span: str) -> bool:
    """Whether some program has the command of a span, with the options that it names."""
    words = span.split()
    given = {word.partition("=")[0].rstrip(",.)]").lstrip("[") for word in words if word.lstrip("[").startswith("--")}
    for program in [words.pop(0)] if words[0] in PROGRAMS else PROGRAMS:
        if not words or words[0].startswith("-"):
            return True
        try:
            known = options_of([program, *words])
        except (KeyError, IndexError):
            continue
        if given - {"--help", "--json"} <= known:
            return True
    return False


def options_of(words: list[str]) -> set[str]:
    """The options that a command of ours takes; of a group without a verb, those of all of its commands."""
    from docs.hooks.commands import read_program

    command, rest = read_program(words[0]), words[1:]
    while hasattr(command, "commands"):
        if not rest:
            return {name for below in command.commands.values() for one in below.params for name in one.opts}
        below = "eval" if rest[0].startswith("-") else rest[0]
        command, rest = command.commands[below], rest[1:]
    return {name for parameter in command.params for name in parameter.opts}


def files_of(path: Path) -> Iterator[tuple[str, str]]:
    """(name, content) of the blocks whose first line is a comment with the name of a file: `# my_scores.py: ...`."""
    for block in read_blocks(path):
        if match := re.match(r"# (?P<name>[\w.-]+\.\w+)(?::|\n)", block.text):
            yield match["name"], block.text
