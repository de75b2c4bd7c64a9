"""The csv of raters, and what follows from it, against counts and a likelihood of the test's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.leaderboard.schema import VotesTable
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import PER_IMAGE
from benchmarks.votes import summary
from benchmarks.votes.read import COLUMNS, read_votes
from benchmarks.votes.study import code_pictures, make_study, name_study
from benchmarks.votes.summary import summarise_votes
from lucidflux_data.errors import InputError
from tests.benchmarks.votes.test_strengths import most_likely
from tests.benchmarks.votes.test_study import IDS, SUITE, methods

ABC = methods("a", "b", "c")
STUDY = name_study(SUITE, 0, "nothing")
CODES = {(picture.method, picture.id): code for code, picture in code_pictures(STUDY, ABC).items()}
Row = tuple[str, int, str, str, str]  # rater, repeat, id, winner, loser


def line(row: Row, right: bool = False) -> list[str]:
    rater, repeat, id_, winner, loser = row
    won, lost = CODES[winner, id_], CODES[loser, id_]
    return [STUDY, rater, str(repeat), *((lost, won, "right") if right else (won, lost, "left")), "1.5"]


def write(path: Path, *rows: list[str]) -> Path:
    path.write_text("".join(f"{','.join(row)}\n" for row in (COLUMNS, *rows)))
    return path


def scores(**by_method: float) -> pa.Table:
    """niqe (lower is better) of every image."""
    rows = [
        {"suite": "photos:1", "method": name, "seed": "0", "id": id_, "metric": "niqe", "value": value,
         "reason": None, "seconds": 0.0}
        for name, value in by_method.items() for id_ in IDS
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, PER_IMAGE)


def table_of(path: Path, rows: list[Row], given: list[Method] = ABC, resamples: int = 400) -> VotesTable:
    read = read_votes([write(path, *(line(row, k % 2 == 1) for k, row in enumerate(rows)))], SUITE, given)
    return summarise_votes(read, given, scores(a=3.0, b=4.0, c=4.0), [MetricSpec("niqe")], resamples)


@pytest.fixture
def opinions() -> list[Row]:
    """Five raters of known strengths on 20 images, all pairs, each once."""
    strengths = {"a": 0.9, "b": 0.0, "c": -0.9}
    rng = np.random.default_rng(4)
    rows: list[Row] = []
    for rater in ("ann", "bo", "cy", "dee", "éva 2"):
        for id_ in IDS[:20]:
            for pair in combinations("abc", 2):
                first = rng.random() < 1 / (1 + np.exp(strengths[pair[1]] - strengths[pair[0]]))
                rows.append((rater, 0, id_, *(pair if first else pair[::-1])))
    return rows


def test_counts_strengths_and_agreement_are_those_of_the_votes(tmp_path: Path, opinions: list[Row]) -> None:
    repeats: list[Row] = [("ann", 1, *opinions[0][2:]), ("ann", 1, *opinions[1][2:3], *opinions[1][:2:-1])]
    found = table_of(tmp_path / "v.csv", [*opinions, *repeats])
    assert (found["votes"], found["images"], found["why_not"]) == (300, 20, None)
    wins = np.array([[sum(row[3:] == (i, j) for row in opinions) for j in "abc"] for i in "abc"])
    assert [row["wins"] for row in found["rows"].values()] == wins.sum(axis=1).tolist()
    assert [pair["wins"] for pair in found["pairs"]] == [wins[0, 1], wins[0, 2], wins[1, 2]]
    truth = most_likely(wins)
    assert [row["strength"] for row in found["rows"].values()] == pytest.approx(truth, abs=1e-4)
    assert [row["rank"] for row in found["rows"].values()] == [1, 2, 3]
    assert all(row["low"] < row["strength"] < row["high"] for row in found["rows"].values())
    assert found["rows"]["a"]["tied_with_best"] is True
    assert found["rows"]["c"]["tied_with_best"] is False
    ann = found["raters"]["ann"]
    assert (ann["votes"], ann["repeats"], ann["same"]) == (60, 2, 1)
    # niqe: a is better than b and c, which are equal
    right = sum(winner == "a" for *_, winner, _ in opinions) + 0.5 * sum("a" not in row[3:] for row in opinions)
    assert found["metrics"]["niqe"]["share"] == pytest.approx(right / 300)
    by_trial: dict[tuple[str, ...], list[str]] = {}
    for _, _, id_, winner, loser in opinions:
        by_trial.setdefault((id_, *sorted((winner, loser))), []).append(winner)
    same = [first == second for votes in by_trial.values() for first, second in combinations(votes, 2)]
    assert found["among_raters"] == {"n": len(same), "share": pytest.approx(np.mean(same)), "low": None, "high": None}
    assert sum(row["with_others"] for row in found["raters"].values()) <= 300


def test_intervals_are_of_raters_and_images(
    tmp_path: Path, opinions: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a bootstrap that copies votes one by one; the same in chunks of any size."""
    found = table_of(tmp_path / "v.csv", opinions, resamples=1500)
    rng = np.random.default_rng(5)
    raters, images = sorted({row[0] for row in opinions}), IDS[:20]
    by_place = {(row[0], row[2]): [other for other in opinions if (other[0], other[2]) == (row[0], row[2])]
                for row in opinions}  # fmt: skip
    strengths = []
    for _ in range(200):
        wins = np.zeros((3, 3))
        for rater in rng.choice(raters, len(raters)):
            for id_ in rng.choice(images, len(images)):
                for *_, winner, loser in by_place[rater, id_]:
                    wins["abc".index(winner), "abc".index(loser)] += 1
        strengths.append(most_likely(wins))
    low, high = np.quantile(strengths, [0.025, 0.975], axis=0)
    for k, row in enumerate(found["rows"].values()):
        assert (row["low"], row["high"]) == pytest.approx((low[k], high[k]), abs=0.2)
    monkeypatch.setattr(summary, "CHUNK", 7)
    assert table_of(tmp_path / "v.csv", opinions, resamples=1500) == found


def test_who_never_lost_or_was_never_compared_has_no_rank(tmp_path: Path) -> None:
    never: list[Row] = [("ann", 0, id_, "a", "b") for id_ in IDS[:9]]
    found = table_of(tmp_path / "v.csv", never)
    assert "a never lost" in str(found["why_not"])
    assert found["remarks"] == ["no vote is on c", "there is one rater: intervals say nothing of others"]
    assert {row["rank"] for row in found["rows"].values()} == {None}
    assert found["metrics"]["niqe"]["share"] == 1.0
    found = table_of(tmp_path / "v.csv", [*never, ("bo", 0, IDS[0], "b", "a")])
    row = found["rows"]["a"]
    assert row["strength"] == pytest.approx(np.log(9) / 2)
    assert found["unbounded"] > 0.2, "few resamples hold the one loss"
    assert (row["rank"], row["high"]) == (1, None), "no end above, since none is known"
    assert row["first_share"] == pytest.approx(1 - found["unbounded"], abs=1e-3)
    four = methods("a", "b", "c", "d")
    CODES.update({(p.method, p.id): code for code, p in code_pictures(STUDY, four).items()})
    apart: list[Row] = [("ann", 0, id_, *pair) for id_, pair in zip(IDS, ("ab", "ba", "cd", "dc"), strict=False)]
    found = table_of(tmp_path / "v.csv", apart, four)
    assert found["why_not"] == "no vote compares a, b with c, d"


HOSTILE: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "formula": (lambda r: [r[0], '"=HYPERLINK(1)"', *r[2:]], "is no name of a rater"),
    "control": (lambda r: [r[0], "a\x1b[2J", *r[2:]], "is no name of a rater"),
    "no name": (lambda r: [r[0], "", *r[2:]], "is no name of a rater"),
    "long name": (lambda r: [r[0], "x" * 41, *r[2:]], "is no name of a rater"),
    "another suite": (lambda r: [name_study(methods_suite(), 0, "nothing"), *r[1:]], "over another suite"),
    "no study": (lambda r: ["1", *r[1:]], "is no study of"),
    "another study": (lambda r: [name_study(SUITE, 1, "nothing"), *r[1:]], "votes of two studies"),
    "repeat": (lambda r: [*r[:2], "2", *r[3:]], "repeat is 0 or 1"),
    "choice": (lambda r: [*r[:5], "both", r[6]], "choice is left or right"),
    "itself": (lambda r: [*r[:4], r[3], *r[5:]], "the same picture"),
    "two images": (lambda r: [*r[:4], CODES["a", "39"], *r[5:]], "it compares b of 05 with a of 39"),
    "seconds": (lambda r: [*r[:6], "nan"], "seconds is a number from 0"),
    "cells": (lambda r: r[:6], "has 6 cells, not 7"),
    "quotes": (lambda r: ['"a"b', *r[1:]], "is no csv"),
    "contradiction": (lambda r: [*line(("ann", 0, "01", "b", "a"))], "answered this comparison otherwise in"),
}


def methods_suite() -> object:
    from dataclasses import replace

    return replace(SUITE, fingerprint="cd" * 32)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_vote_is_refused_by_its_line(tmp_path: Path, what: str) -> None:
    change, sentence = HOSTILE[what]
    good = line(("ann", 0, "01", "a", "b"))
    path = write(tmp_path / "v.csv", good, change(line(("bo", 0, "05", "b", "c"))))
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        read_votes([path], SUITE, ABC)
    assert "v.csv, line 3" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"study;rater\n1;2\n", b"\xff\xfe", b"study\n", b"PK\x03\x04" * 99])
def test_what_is_no_csv_of_the_page_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_votes([path], SUITE, ABC)
    for absent in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_votes([absent], SUITE, ABC)


def test_what_stands_twice_or_is_on_other_outputs_is_counted(tmp_path: Path) -> None:
    rows = [line(("ann", 0, id_, "a", "b"), right=id_ > "04") for id_ in IDS[:9]]
    first, second = write(tmp_path / "1.csv", *rows[:6]), write(tmp_path / "2.csv", *rows)
    second.write_bytes(b"\xef\xbb\xbf" + second.read_bytes().replace(b"\n", b"\r\n"))  # as a spreadsheet saves it
    found = read_votes([first, second], SUITE, ABC)
    assert (len(found.rows), found.twice, found.unknown) == (9, 6, 0)
    assert found.rows == read_votes([second, first], SUITE, ABC).rows
    other = methods("a", "b", "c", ids=IDS[:4])
    assert (read_votes([second], SUITE, other).unknown, len(read_votes([second], SUITE, other).rows)) == (5, 4)
    with pytest.raises(InputError, match="none of the 9 votes is on these outputs"):
        read_votes([second], SUITE, methods("x", "y"))


def test_a_study_of_the_page_is_read_back(tmp_path: Path) -> None:
    study = make_study(SUITE, ABC, IDS, 0, 30, 0, "nothing")
    rows = [[study.name, "ann", "0", *trial, "left", "0"] for trial in study.trials]
    assert len(read_votes([write(tmp_path / "v.csv", *rows)], SUITE, ABC).rows) == 30
