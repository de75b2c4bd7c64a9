"""The page of exit codes and sentences says what the code says."""

from __future__ import annotations

import ast
import re
from functools import cache

from lucidflux_data import errors
from lucidflux_data.selection.records import REASONS, WHAT_IT_MEANS
from tests.support.layout import EXEMPT, SOURCES
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
LEAST = 5  # sentences of each code that can be met, but for those of which there are few
FEW = {"1": 1, "4": 1}


def kinds() -> list[type[errors.LucidFluxError]]:
    named = [getattr(errors, name) for name in vars(errors)]
    return [kind for kind in named if isinstance(kind, type) and issubclass(kind, errors.LucidFluxError)]


def test_the_codes_of_the_page_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d) \| (?:`(\w+)`)? *\|", PAGE, re.MULTILINE)
    assert [code for code, _ in rows] == [str(code) for code in range(7)]
    named = {int(code): name for code, name in rows if name}
    direct = {kind.exit_code: kind.__name__ for kind in kinds() if kind.__base__ is errors.LucidFluxError}
    assert named == direct
    assert {kind.exit_code for kind in kinds()} == {1, *named}


@cache
def sentences() -> dict[str, set[str]]:
    """Every text of the code with `…` for what is put into it -> the names of the errors that it is raised as."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        if EXEMPT not in path.parents:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if text := written(node):
                    found.setdefault(text, set())
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                    found.get(written(node.exc.args[0]), set()).add(ast.unparse(node.exc.func).rpartition(".")[2])
    return found


def written(node: ast.AST) -> str:
    """The text that an expression writes, nothing where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (written(node.left) or "…") + (written(node.right) or "…")
    return ""


def test_each_sentence_of_the_page_is_one_of_the_code_with_that_exit_code() -> None:
    codes = {kind.__name__: str(kind.exit_code) for kind in kinds()}
    for section in PAGE.split("\n## Exit code ")[1:]:
        code, table = section[0], section.split("\n## ")[0]
        told = re.findall(r"^\| `(.+?)` \| \S.*\|$", table, re.MULTILINE)
        assert len(told) >= FEW.get(code, LEAST)
        for sentence in told:
            parts = [part for part in sentence.split("…") if part]
            assert max(map(len, parts)) > 8, sentence
            pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
            raised = [names for text, names in sentences().items() if pattern.search(text)]
            assert raised, f"{sentence!r} is no sentence of the code"
            known = {codes[name] for names in raised for name in names if name in codes}
            assert not known or code in known, f"{sentence!r} is exit code {known}"


def test_each_reason_is_told_in_the_words_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.split("## Reasons of images")[1], re.MULTILINE)
    assert rows == [(reason, WHAT_IT_MEANS[reason]) for reason in REASONS]
