"""Text that strangers chose (names, labels, remarks), made harmless for each format that it is written into.

Characters that are not seen (control characters, marks that turn the direction of text, lone surrogates) are written
`\\xNN` or `\\uNNNN` in all of them: a name cannot move a cursor, hide a part of itself, or start another line.
"""

from __future__ import annotations

import html
import json
import re
import unicodedata
from typing import Any

# Categories: control, format, lone surrogates, separators of lines and paragraphs.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
FORMULA = tuple("=+-@\t\r＝＋－＠")  # what spreadsheets take for the start of a formula
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "[": "{[}",  # behind the end of a row it would be a length, and a star would keep the page
    "*": "{*}",
    **{character: "\\" + character for character in "&%_#${}"},
}
# What makes emphasis, code, a cell or a link; an underscore inside a word, and brackets without a target, make nothing.
_MARKDOWN = re.compile(r"([\\`*|]|~(?=~)|(?<=~)~|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|\](?=[(\[:]))")


def code_of(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def show(text: str, lines: bool = False) -> str:
    """Text whose characters are all seen: for terminals, logs and comments. `lines`: ends of lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(code_of(c) if c not in kept and unicodedata.category(c) in UNSEEN else c for c in text)


def for_html(text: str) -> str:
    """For the text of an element, and for an attribute in quotes of either kind."""
    return html.escape(show(text, lines=True), quote=True)


def for_script(data: Any) -> str:
    """JSON for the inside of a <script>: no `<`, so that neither its end nor a comment can begin there."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def for_latex(text: str) -> str:
    """For the text of a document or of a table's cell."""
    return "".join(_LATEX.get(character, character) for character in show(text))


def for_latex_comment(text: str) -> str:
    """For what stands behind a `%`, up to the end of its line."""
    return show(text)


def for_markdown(text: str) -> str:
    """For a line of text or a table's cell: no markup, no HTML, no link."""
    return _MARKDOWN.sub(r"\\\1", html.escape(show(text), quote=False))


def for_markdown_code(text: str) -> str:
    """A code span, which is copied as it stands: behind a fence that is longer than any run of backticks in it."""
    shown = show(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    gap = " " if "`" in shown else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def for_csv(text: str) -> str:
    """For a cell of text. A spreadsheet takes `=...` for a formula: a leading `'` says that it is text."""
    shown = show(text)
    return f"'{shown}" if text.startswith(FORMULA) or shown.lstrip().startswith(FORMULA) else shown
