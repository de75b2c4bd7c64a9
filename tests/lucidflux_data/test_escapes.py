"""One escape for each format, tried with every hostile text and read back by a parser of that format."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lucidflux_data import escapes
from tests.support.hostile import TEXTS
from tests.support.paths import ROOT
from tests.test_safe_code import SOURCES, name_of

ANY_TEXT = st.text(
    st.one_of(st.sampled_from("<>&'\"\\`*_~|[](){}$%#^=+-@!\n\r\t\x1b\u202e"), st.characters()), max_size=60
)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")


def read_html(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader


def is_seen(text: str, but: str = "") -> bool:
    return all(c in but or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def check_all(text: str) -> None:
    shown = escapes.show(text)
    assert is_seen(shown)
    safe = escapes.for_html(text)
    assert is_seen(safe, "\n\t")
    for quote in "'\"":
        found = read_html(f"<p title={quote}{safe}{quote}>{safe}</p>")
        assert found.tags == ["p"]
        assert found.attributes == [("title", escapes.show(text, lines=True))]
        assert found.text == escapes.show(text, lines=True)
    script = escapes.for_script({"name": text, text: [text]})
    assert not set("<>&\u2028\u2029") & set(script)
    script.encode()
    assert json.loads(script) == {"name": text, text: [text]} if text != "name" else True
    row = next(csv.reader(io.StringIO(f"{_csv_line(['a', escapes.for_csv(text), 'b'])}")))
    assert row[1].removeprefix("'") in (shown, shown.removeprefix("'"))
    assert not row[1].lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    line = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(f"x {escapes.for_markdown(text)} x")
    assert read_html(line).tags == ["p"]
    span = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(f"x {escapes.for_markdown_code(text)} x")
    if shown.strip():  # an empty code span is none
        assert read_html(span).tags == ["p", "code"]
        assert read_html(span).text.split() == f"x {shown} x".split()
    cell = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(
        f"| a | b |\n|---|---|\n| x {escapes.for_markdown(text)} x | y |\n"
    )
    found = read_html(cell)
    assert found.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert " ".join(found.text.split()).removeprefix("a b x").removesuffix("x y").split() == shown.split()
    tex = escapes.for_latex(text)
    assert "\n" not in tex
    assert not tex.startswith(("[", "*"))  # behind the end of a row
    assert _read_latex(tex) == shown
    assert is_seen(escapes.for_latex_comment(text))


def _csv_line(cells: list[str]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerow(cells)
    return sink.getvalue()


def _read_latex(tex: str) -> str:
    """The text that LaTeX prints, by the few commands that may stand in it; any other special one is a fault."""
    commands = {"textbackslash{}": "\\", "textasciitilde{}": "~", "textasciicircum{}": "^", "textless{}": "<"}
    commands |= {"textgreater{}": ">", "textbar{}": "|"} | {c: c for c in "&%_#${}"}
    found = ""
    for written, read in ((r"$\pm$", "±"), ("{[}", "["), ("{*}", "*")):
        tex = tex.replace(written, read)
    while tex:
        if tex[0] == "\\":
            name = next(name for name in commands if tex[1:].startswith(name))
            found, tex = found + commands[name], tex[1 + len(name) :]
        else:
            assert tex[0] not in "&%_#${}~^"
            found, tex = found + tex[0], tex[1:]
    return found


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_hostile_texts(text: str) -> None:
    check_all(text)


@given(ANY_TEXT)
def test_any_text(text: str) -> None:
    check_all(text)


@pytest.mark.parametrize("text", ["seesr[steps=20]", "lpips_vgg", "café 日本.png", "photos/a_b/c-1.png", "2 x 3 (4)"])
def test_ordinary_names_stay(text: str) -> None:
    assert escapes.show(text) == escapes.for_markdown(text) == escapes.for_csv(text) == escapes.for_html(text) == text


def test_whatever_is_printed_is_escaped() -> None:
    """Names come from everywhere: a print of anything but a constant goes through `show`, or is JSON."""
    safe = {"show", "json.dumps", "version"}
    for path in SOURCES:
        if path.is_relative_to(ROOT / "benchmarks/throughput"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name_of(node.func) in ("print", "typer.echo") and node.args:
                said = node.args[0]
                texts = [said]
                if isinstance(said, ast.JoinedStr):
                    texts = [part.value for part in said.values if isinstance(part, ast.FormattedValue)]
                for text in texts:
                    seen = isinstance(text, ast.Constant) or (isinstance(text, ast.Call) and name_of(text.func) in safe)
                    seen |= ast.unparse(text) == "type(error).__name__"
                    assert seen, f"{path.relative_to(ROOT)}:{node.lineno} prints {ast.unparse(said)}"


def test_nothing_else_escapes_for_pages() -> None:
    """A second way to escape would be one that nobody tests."""
    second = r"html\.escape|markupsafe(\.| import .*)escape|def _?(tex|escape_html)\b"
    for package in ("lucidflux_data", "lucidflux_model", "benchmarks", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "escapes.py":
                assert not re.search(second, path.read_text()), path
