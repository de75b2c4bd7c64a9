"""The reasons in the code are those in the docs, and code gives no others."""

from __future__ import annotations

import ast
import re

from lucidflux_data.selection.records import BASE, FAILURES, INCLUDED, REASONS, REJECTIONS, WHAT_IT_MEANS
from tests.support.layout import SOURCES
from tests.support.paths import ROOT

# Reasons of outputs of the benchmark and of `restore`, which are no candidates.
OF_OUTPUTS = {"not_finite", "wrong_size"}


def test_the_list_of_the_docs_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "design.md").read_text().partition("## Reasons")[2]
    listed = text.partition("What they mean")[0]
    failures, rejections = listed.split("Then, the first that")
    words = re.compile(r"[a-z]+(?:_[a-z]+)*")
    assert tuple(words.findall(failures.partition(":")[2])) == FAILURES
    told = words.findall(rejections.partition(":")[2])
    assert [word for word in told if word not in (BASE, INCLUDED)] == list(REJECTIONS)
    assert told.index(INCLUDED) == told.index(BASE) + 1 == told.index("duplicate") + 2
    assert WHAT_IT_MEANS.keys() == set(REASONS)


def test_the_code_gives_no_other_reason() -> None:
    given = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ImageError":
                reason = node.args[0]
                given |= {reason.value} if isinstance(reason, ast.Constant) else set()
    assert given - OF_OUTPUTS <= set(REASONS)
    assert set(FAILURES) <= given, "no reason that nothing gives"


def test_every_failure_of_an_image_is_explained_to_users() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("formats.md", "curation.md"))
    assert [reason for reason in FAILURES if f"`{reason}`" not in text] == []
