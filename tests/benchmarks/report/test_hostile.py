"""Names of methods, ids and remarks that are markup: in every table, and in the page, in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import tables
from lucidflux_data.escapes import show
from tests.lucidflux_data.test_escapes import is_seen, read_html
from tests.support import chromium
from tests.support.hostile import SCRIPT, TEXTS
from tests.support.pages import check_page


def renamed(value: Any, old: str, new: str) -> Any:
    """The board with another name, wherever it stands."""
    if isinstance(value, dict):
        return {renamed(key, old, new): renamed(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, old, new) for inner in value]
    return new if value == old else value


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_tables_of_a_hostile_board(text: str, scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from markdown_it import MarkdownIt

    board = renamed(json.loads((scored / "leaderboard.json").read_text()), "bicubic", text)
    board |= {"suite": text, "about": text, "footnotes": [text], "signature": f"s:{text}"}
    board["flags"][text] = [text]
    board["published"] = [{"method": text, "source": text, "reference": text, "values": {"niqe": 1.0}, "colours": {}}]
    rendered = read_html(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(tables.markdown(board)))
    allowed = {"h2", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "p", "code"}
    assert set(rendered.tags) <= allowed
    assert rendered.tags.count("code") == 1, "the signature, to be copied"
    assert rendered.tags.count("tr") == 1 + 4 + 1
    tex = tables.latex(board)
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    plain = renamed(json.loads((scored / "leaderboard.json").read_text()), "bicubic", "plain")
    assert len(body) == len(tables.latex(plain).splitlines()) - len(tables.notes(plain)) + 2
    assert is_seen(tex, "\n")
    rows = list(csv.reader(io.StringIO(tables.csv_text(board))))
    assert {len(row) for row in rows} == {12}
    assert sum(row[1].removeprefix("'") == show(text).removeprefix("'") for row in rows) == len(board["metrics"]) + 1
    tables.print_terminal(board)
    assert is_seen(capsys.readouterr().out, "\n")


def test_a_page_of_hostile_names(photos: Path, bench, tmp_path: Path, tab: chromium.Page) -> None:
    names = [text for text in TEXTS if "/" not in text and "\n" not in text and "\r" not in text][:6]
    ids = ["</script><script>a", "<!--<script>", f"'><img src=x onerror={SCRIPT}>", "a\u202eb\x1b[2J", "y" * 150]
    ids = [id_.replace("/", "\u2215") for id_ in ids]
    for place in ("lq", "gt", "methods"):
        (tmp_path / place).mkdir()
    for id_, photo in zip(ids, sorted((photos / "gt").iterdir()), strict=False):
        for place in ("lq", "gt"):
            shutil.copy(photos / place / photo.name, tmp_path / place / f"{id_}.png")
    outputs = []
    for number, name in enumerate(names[:3]):
        folder = tmp_path / "methods" / name
        folder.mkdir()
        about = {"method": TEXTS[number] + "z" * 120 * (number == 2), "contaminated": [TEXTS[number + 1]]}
        (folder / "method.json").write_text(json.dumps(about))
        for id_, photo in zip(ids, sorted((photos / "methods" / "bicubic").iterdir()), strict=False):
            shutil.copy(photo, folder / f"{id_}.png")
        outputs.append(folder)
    given = ["--inputs", tmp_path / "lq", "--gt", tmp_path / "gt", "--metrics", "psnr,ssim"]
    done = bench("--outputs", *outputs, *given, "--out", tmp_path / "out", "--executor", "local", "--num-cpus", 1)
    assert done.returncode == 0, done.stderr
    assert is_seen(done.stdout + done.stderr, "\n")
    check_page(tab, tmp_path / "out" / "report.html")
    shown = tab.value("[...document.querySelectorAll('#leaderboard tbody tr')].map(r => r.cells[0].textContent)")
    assert sorted(shown) == sorted(show(text) for text in (*TEXTS[:2], TEXTS[2] + "z" * 120))
    for _ in ids:
        tab.key("n")
    assert is_seen(tab.value("document.documentElement.textContent"), "\n\t")
    assert tab.value("document.documentElement.dataset.hostile ?? null") is None
    assert (tab.console, tab.requests) == ([], [])


@pytest.mark.parametrize(
    "about", ["[]", "[" * 100_000, '{"contaminated": "x"}', '{"method": 1}', '{"peak_gpu_mb": "<b>"}', "{"]
)
def test_what_a_submission_says_of_itself_has_types(about: str, photos: Path, bench_here, tmp_path: Path) -> None:
    shutil.copytree(photos / "methods" / "bicubic", tmp_path / "m")
    (tmp_path / "m" / "method.json").write_text(about)
    done = bench_here("--outputs", tmp_path / "m", "--metrics", "niqe", "--out", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert "method.json" in done.stderr


def test_a_narrow_terminal_gets_every_column(scored: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that do not fit beside the others stand in a further table, with the methods again."""
    from rich.console import Console

    board = json.loads((scored / "leaderboard.json").read_text())
    whole = tables.header(board)[1:-1]
    monkeypatch.setattr(tables, "_console", lambda: Console(soft_wrap=True, width=40))
    tables.print_terminal(board)
    said = capsys.readouterr().out
    for name in whole:
        assert name in said
    for row in tables.make_body(board):
        for text, _ in row[1:-1]:
            assert text in said
    framed = [line for line in said.splitlines() if line[:1] in "┏┃┡│└├"]
    assert framed
    assert max(map(len, framed)) <= 40
