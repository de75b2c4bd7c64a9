"""The snippets of docs/python.md run, each alone, and give what stands behind their arrows."""

from __future__ import annotations

import ast
import doctest
import fnmatch
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tests.support import doc_blocks
from tests.support.paths import ROOT
from tests.support.photos import write_small

PAGE = ROOT / "docs" / "python.md"
SNIPPETS = [block for block in doc_blocks.read_blocks(PAGE) if block.language == "python"]
ARROW = "  # -> "


def run_snippet(text: str) -> Iterator[str]:
    """Runs it in a namespace of its own; what differs from what is told behind an arrow (`...` is anything)."""
    names: dict[str, object] = {}
    lines = text.splitlines()
    for node in ast.parse(text).body:
        _, arrow, wanted = lines[(node.end_lineno or node.lineno) - 1].partition(ARROW)
        if arrow:
            assert isinstance(node, ast.Expr), f"line {node.lineno} tells a value and has none"
            found = str(eval(compile(ast.Expression(node.value), "snippet", "eval"), names))
            pattern = wanted.replace("[", "[[]").replace("...", "*")
            if not fnmatch.fnmatchcase(found, pattern):
                yield f"{ast.unparse(node)} is {found}, not {wanted}"
        else:
            exec(compile(ast.Module([node], []), "snippet", "exec"), names)


@pytest.fixture(scope="module")
def home(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory, data_command) -> Iterator[Path]:
    """photos, a run of them and its pairs, by the commands of the page."""
    home = tmp_path_factory.mktemp("home")
    colour = [path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")]
    write_small(home / "photos", colour, 320, 288)
    (shell,) = [block for block in doc_blocks.read_blocks(PAGE) if block.language == "sh"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        for command in doc_blocks.split_commands(shell.text):
            done = data_command(*command.split()[1:], "--executor", "local", "--num-cpus", "1")
            assert done.returncode == 0, done.stderr
        yield home


def test_the_page_has_twelve_snippets_with_a_number_each() -> None:
    first, *rest = SNIPPETS
    assert list(run_snippet(first.text)) == []
    assert len(rest) == 12
    titles = [line for line in PAGE.read_text().splitlines() if line.startswith("### ")]
    assert [title.split()[1] for title in titles] == [f"{number}." for number in range(1, 13)]


@pytest.mark.parametrize("snippet", SNIPPETS[1:], ids=[f"line-{block.line}" for block in SNIPPETS[1:]])
def test_a_snippet_gives_what_it_tells(snippet: doc_blocks.Block, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert ARROW in snippet.text
    assert list(run_snippet(snippet.text)) == []


@pytest.mark.parametrize(
    "name", ["lucidflux_data.surface.run", "lucidflux_data.surface.pairs", "lucidflux_data.surface.pictures",
             "benchmarks.ranking"],
)  # fmt: skip
def test_the_examples_of_docstrings_are_true(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("run", "pairs"):
        Path(place).symlink_to(home / place)
    for place in ("gt", "outputs/a", "outputs/b"):
        Path(place).mkdir(parents=True)
        shutil.copyfile(home / "photos" / "00.jpg", Path(place) / "0.jpg")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted >= 2
    assert found.failed == 0
