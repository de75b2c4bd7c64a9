"""Terminal, CSV, LaTeX, JSON and page of one run say the same: who is shown, ranked, bold, and below the line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import tables
from benchmarks.report.page_tables import WORDS
from lucidflux_data.escapes import for_latex, show

METRICS = ("psnr", "ssim", "niqe")
BAD = os.fsdecode(b"few\xff")  # a name that is no UTF-8


@pytest.fixture(scope="module")
def outputs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lanczos and bicubic with all six images, the latter under names with _out; nearest and blurred with gaps; two."""
    root = tmp_path_factory.mktemp("outputs")
    lacking = {"lanczos": 0, "[bi*cubic": 0, "nearest": 1, "blurred": 2, BAD: 4}
    for name, gaps in lacking.items():
        source = photos / "methods" / {"[bi*cubic": "bicubic", BAD: "nearest"}.get(name, name)
        (root / name).mkdir()
        for path in sorted(source.iterdir())[gaps:]:
            suffix = "_out" if name == "[bi*cubic" else ""
            shutil.copyfile(path, root / name / f"{path.stem}{suffix}.png")
    return root


@pytest.fixture(scope="module")
def run(outputs: Path, photos: Path, bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, what the terminal said) of a run with --id-pattern and --min-images."""
    out = tmp_path_factory.mktemp("agree") / "out"
    asked = ["--outputs", outputs, "--gt", photos / "gt", "--inputs", photos / "lq", "--metrics", ",".join(METRICS)]
    asked += ["--group", "fidelity=psnr,ssim", "--id-pattern", "(?P<id>.+)_out", "--min-images", 3]
    done = bench(*asked, "--out", out, "--executor", "local", "--num-cpus", 1, FORCE_COLOR="1", COLUMNS="220")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


View = dict[str, dict[str, tuple[str, int | None, bool]]]  # method -> metric -> mean as shown, rank, bold


def of_json(board: dict[str, Any]) -> View:
    return {
        method: {
            name: (tables.digits(row["mean"]), row["rank"], bool(row.get("tied_with_best")))
            for name in METRICS
            for row in [board["metrics"][name]["rows"][method]]
        }
        for method in tables.order(board)
    }


def of_csv(text: str) -> tuple[View, list[str]]:
    view: View = {}
    below = []
    for row in csv.DictReader(text.splitlines()):
        bold, rank = row["tied_with_best"] == "True", int(row["rank"]) if row["rank"] else None
        view.setdefault(row["method"], {})[row["metric"]] = (tables.digits(float(row["mean"])), rank, bold)
        below += [row["method"]] * (row["kind"] == "not ranked" and row["method"] not in below)
    return view, below


def of_terminal(text: str) -> tuple[View, list[str]]:
    view: View = {}
    below: list[str] = []
    after = False
    for line in text.splitlines():
        cells = [cell for cell in line.split("│")[1:-1]]
        plain = [re.sub(r"\x1b\[[0-9;]*m", "", cell).strip() for cell in cells]
        after = after or (bool(plain) and plain[0] == tables.BELOW)
        if len(plain) < 4 or not plain[1] or not plain[1][0].isdigit():
            continue
        view[plain[0]] = {}
        below += [plain[0]] * after
        for name, cell, raw in zip(METRICS, plain[1:], cells[1:], strict=False):
            rank = re.search(r"#(\d+)", cell)
            view[plain[0]][name] = (cell.split()[0], int(rank[1]) if rank else None, "\x1b[1m" in raw)
    return view, below


def of_latex(text: str) -> tuple[dict[str, dict[str, tuple[str, bool]]], list[str]]:
    view: dict[str, dict[str, tuple[str, bool]]] = {}
    below: list[str] = []
    after = False
    for line in text.splitlines():
        after = after or for_latex(tables.BELOW) in line
        cells = [cell.strip() for cell in line.removesuffix(r"\\").split(" & ")]
        if len(cells) < 4 or line.startswith("%") or cells[0] == "method":
            continue
        below += [cells[0]] * after
        view[cells[0]] = {}
        for name, cell in zip(METRICS, cells[1:], strict=False):
            bold = cell.startswith(r"\textbf{")
            view[cells[0]][name] = (cell.removeprefix(r"\textbf{").split(r"$")[0].strip(" }"), bold)
    return view, below


class Rows(HTMLParser):
    """The rows of the leaderboard: class of the body, and (class, text) of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[list[str]]]] = []
        self.inside, self.body = False, ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.inside = self.inside or found.get("id") == "leaderboard"
        if not self.inside:
            return
        if tag == "tbody":
            self.body = found.get("class") or ""
        elif tag == "tr":
            self.rows.append((self.body, []))
        elif tag in ("td", "th") and self.rows:
            self.rows[-1][1].append([found.get("class") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1][1]:
            self.rows[-1][1][-1][1] += data


def of_page(text: str) -> tuple[View, list[str]]:
    parser = Rows()
    parser.feed(text)
    view: View = {}
    below = []
    for body, cells in parser.rows[1:]:
        if body == "line":
            continue
        method = cells[0][1]
        below += [method] * (body == "below")
        view[method] = {}
        for name, (kind, cell) in zip(METRICS, cells[1:], strict=False):
            words = re.search(r"(\w+) of (\d)", cell)
            view[method][name] = (cell.split()[0], WORDS.index(words[1]) + 1 if words else None, kind == "best")
    return view, below


def test_all_five_views_agree(run: Any) -> None:
    out, told = run
    board = json.loads((out / "leaderboard.json").read_text())
    wanted, below = of_json(board), ["blurred", "nearest"]
    assert list(wanted)[2:] == below
    assert {m: [rank for _, rank, _ in row.values()] for m, row in wanted.items() if m in below} == {
        m: [None] * 3 for m in below
    }
    assert sorted(rank for row in wanted.values() for _, rank, _ in row.values() if rank) == [1, 1, 1, 2, 2, 2]
    assert any(bold for row in wanted.values() for *_, bold in row.values())
    assert board["below"] == below
    assert set(board["not_shown"]) == {"few\\udcff"}
    for name, (view, under) in {
        "csv": of_csv((out / "leaderboard.csv").read_text()),
        "terminal": of_terminal(told),
        "page": of_page((out / "report.html").read_text()),
    }.items():
        assert list(view) == list(wanted), name
        assert view == wanted, name
        assert under == below, name
    latex, under = of_latex((out / "leaderboard.tex").read_text())
    expected = {for_latex(m): {k: (mean, bold) for k, (mean, _, bold) in row.items()} for m, row in wanted.items()}
    assert list(latex) == list(expected)
    assert latex == expected
    assert under == below
    markdown = (out / "leaderboard.md").read_text().splitlines()
    lines = [next(k for k, line in enumerate(markdown) if text in line) for text in (*wanted, tables.BELOW)
             for text in [f"| {text.replace('*', chr(92) + '*')} |" if text in wanted else text]]  # fmt: skip
    assert lines[:2] + lines[4:] + lines[2:4] == sorted(lines)


def test_the_same_sentences_stand_in_each(run: Any) -> None:
    out, told = run
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    for sentence in (
        "blurred lacks 2 of 6 images: astronaut (missing), brick (missing). Over the images that both have: psnr -",
        "nearest lacks 1 of 6 images: astronaut (missing). Over the images that both have: psnr -",
        "psnr: lanczos is first; paired p of the difference to it (Holm): [bi*cubic 0.0",
        show("Not shown, with fewer images than --min-images: few\\udcff (2)."),
    ):
        assert sentence in plain
        assert sentence in (out / "leaderboard.tex").read_text()
        assert sentence in (out / "report.html").read_text()


def test_a_part_that_all_have_is_offered_and_named_in_the_signature(
    outputs: Path, photos: Path, bench: Any, bench_here: Any, tmp_path: Path
) -> None:
    """Where nobody has every image, the ids that most share are a file for --ids; over it they are ranked."""
    asked = ["--outputs", *(outputs / name for name in ("nearest", "blurred", BAD)), "--gt", photos / "gt"]
    asked += ["--metrics", "psnr", "--out", tmp_path / "out", "--executor", "local", "--num-cpus", 1]
    first = bench(*asked)
    assert first.returncode == 0, first.stderr
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [row["rank"] for row in board["metrics"]["psnr"]["rows"].values()] == [None] * 3
    assert "2 of 3 methods (nearest, blurred) have the same 4 images: --ids common_ids.txt" in first.stdout
    names = tmp_path / "out" / "common_ids.txt"
    assert names.read_text().split() == ["camera", "chelsea", "coffee", "coins"]
    shutil.copyfile(names, tmp_path / "ids.txt")
    second = bench(*asked, "--ids", tmp_path / "ids.txt")
    assert second.returncode == 0, second.stderr
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    ranks = {m: row["rank"] for m, row in board["metrics"]["psnr"]["rows"].items()}
    means = {m: row["mean"] for m, row in board["metrics"]["psnr"]["rows"].items()}
    first, second = sorted(("nearest", "blurred"), key=means.__getitem__, reverse=True)
    assert ranks == {first: 1, second: 2, "few\\udcff": None}
    assert re.match(r"ad-hoc\|n:4/6\|ids:[0-9a-f]{8}\|", board["signature"])
    assert not names.exists(), "an offer that is of no use any more"
    refused = bench_here(*asked, "--ids", tmp_path / "ids.txt", "--limit", 2)
    assert (refused.returncode, "--ids and --limit exclude each other" in refused.stderr) == (2, True)
    (tmp_path / "ids.txt").write_text("coins\nunknown\n")
    strange = bench_here(*asked, "--ids", tmp_path / "ids.txt")
    assert (strange.returncode, "--ids names unknown" in strange.stderr) == (3, True)
