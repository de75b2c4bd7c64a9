"""Tables of `bench compare` and `bench published` on a terminal of 80 columns: every cell is there, whole."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from benchmarks.leaderboard.published import published_rows, tolerances
from benchmarks.leaderboard.schema import Comparison
from benchmarks.report import tables
from benchmarks.suites.suite import load_suite

HEADS = ["methods", "metric", "n", "A", "B", "A - B", "95%", "p (Holm)", "A wins", "better"]
CELLS = ["topiq_nr ↑", "250", "0.7122", "0.7011", "+0.0111", "+0.01 to +0.02", "0.012", "55%", "A"]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_console", lambda: Console(soft_wrap=True, width=80))


def cells(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line[:1] in "│┃"]
    assert max(map(len, lines)) <= 80
    return [cell.strip() for line in lines for cell in re.split("[│┃]", line)[1:-1]]


def test_a_comparison_of_long_names_goes_on_in_further_tables(capsys: pytest.CaptureFixture[str]) -> None:
    found: Comparison = {
        "a": "runs/a", "b": "runs/b", "resamples": 10_000, "computed_in_two_ways": [],
        "rows": [{"methods": ["a_method_with_a_long_name", "another-method"], "metric": "topiq_nr", "n": 250,
                  "lower_is_better": False, "mean_a": 0.7122, "mean_b": 0.7011, "difference": 0.0111, "low": 0.01,
                  "high": 0.02, "p_holm": 0.0123, "win_rate": 0.55, "better": "a"}],
    }  # fmt: skip
    tables.print_comparison(found)
    said = cells(capsys.readouterr().out)
    assert {*HEADS, *CELLS} <= set(said)
    assert {"a_method_with_a_long_n", "ame / another-method"} <= set(said), "in two lines, whole"


def test_published_numbers_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    suite = load_suite("realsr", None)
    rows = published_rows(suite)
    tables.print_published(suite, rows, tolerances())
    said = set(cells(capsys.readouterr().out))
    assert {f"{value:g}" for row in rows for value in row["values"].values()} <= said
    assert {row["method"] for row in rows if len(row["method"]) <= tables.HEAD_WIDTH} <= said
