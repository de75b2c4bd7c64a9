"""`rank` makes the leaderboard of `lucidflux bench`, and shows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import cli
from benchmarks import rank
from lucidflux_data.errors import ConfigError, InputError, LucidFluxError

HOSTILE = "<b>near"


@pytest.fixture(scope="module")
def home(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gt, lq, and three methods: one lacks an image, one has a name that wants to be HTML."""
    home = tmp_path_factory.mktemp("rank")
    ways = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, HOSTILE: cv2.INTER_NEAREST}
    for name in ("gt", "lq", *(f"out/{way}" for way in ways)):
        (home / name).mkdir(parents=True)
    for path in [path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")]:
        image = cv2.resize(cv2.imread(str(path)), (192, 128), interpolation=cv2.INTER_AREA)
        small = cv2.resize(image, (96, 64), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(home / "gt" / f"{path.stem}.png"), image)
        cv2.imwrite(str(home / "lq" / f"{path.stem}.png"), small)
        for name, way in ways.items():
            if (name, path.stem) != ("linear", "rocket"):
                made = cv2.resize(small, (192, 128), interpolation=way)
                cv2.imwrite(str(home / "out" / name / f"{path.stem}.png"), made)
    return home


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, []),
        (
            {
                "allow_partial": True,
                "groups": {"both": ("psnr", "ssim")},
                "test": "wilcoxon",
                "ids": ["coffee", "chelsea"],
            },
            ["--allow-partial", "--group", "both=psnr,ssim", "--test", "wilcoxon", "--ids", "ids.txt"],
        ),
        ({"limit": 2, "id_pattern": "(?P<id>[a-z]+)"}, ["--limit", "2", "--id-pattern", "(?P<id>[a-z]+)"]),
    ],
)
def test_the_board_is_the_one_that_the_command_writes(
    options: dict[str, object], asked: list[str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("coffee\nchelsea\n")
    given = {"metrics": ["psnr", "ssim"], "resamples": 200, "cache": home / "mine"}
    board = rank(home / "out", home / "gt", home / "lq", **given, **options)
    board.save("saved")
    folders = ["--outputs", home / "out", "--gt", home / "gt", "--inputs", home / "lq", "--cache", home / "theirs"]
    known = ["--metrics", "psnr,ssim", "--resamples", 200, "--out", "asked", "--num-cpus", 1]
    monkeypatch.setattr(sys, "argv", ["lucidflux", "bench", *map(str, [*folders, *known, *asked])])
    with pytest.raises(SystemExit) as stop:
        cli.lucidflux_main()
    assert stop.value.code in (0, None)
    assert board.board == json.loads(Path("asked/leaderboard.json").read_text())
    for name in ("run.json", "leaderboard.json", "leaderboard.md", "leaderboard.tex", "leaderboard.csv"):
        assert Path("saved", name).read_bytes() == Path("asked", name).read_bytes(), name
    assert {path.name for path in Path("saved").iterdir()} == {path.name for path in Path("asked").iterdir()}
    assert str(board) == Path("saved/leaderboard.md").read_text()


def test_scores_are_by_hand_and_ranks_follow_from_them(home: Path) -> None:
    outputs = {"a": home / "out" / "cubic", "b": home / "out" / HOSTILE}
    board = rank(outputs, gt=home / "gt", metrics="psnr", resamples=200, cache=home / "mine")
    means = {}
    for row in board.scores("polars").iter_rows(named=True):
        pair = [cv2.imread(str(place / f"{row['id']}.png")) for place in (outputs[row["method"]], home / "gt")]
        error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
        assert row["value"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
        means.setdefault(row["method"], []).append(row["value"])
    assert board.methods == sorted(means, key=lambda name: -np.mean(means[name]))
    scores = board.scores("pandas")
    assert len(scores) == 8
    assert scores["reason"].isna().all()


def test_a_notebook_shows_hostile_names_and_the_line_below(home: Path) -> None:
    page = rank(home / "out", gt=home / "gt", metrics="psnr", resamples=200, cache=home / "mine")._repr_html_()
    assert "<b>near" not in page
    assert "<td>&lt;b&gt;near</td>" in page
    assert page.index("not ranked: images are missing") < page.index("<td>linear</td>")
    assert "psnr ↑" in page
    assert "://" not in page


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda home: rank(home / "nowhere"), InputError, "nowhere is not a folder"),
        (lambda home: rank(home / "out", metrics="psnrr"), ConfigError, "did you mean psnr"),
        (lambda home: rank(home / "out", metrics=["psnr"], profile="offline"), ConfigError, "exclude each other"),
        (lambda home: rank(home / "out", metric="psnr"), ConfigError, "did you mean metrics"),
        (lambda home: rank(home / "out", profile="papers"), ConfigError, "there is no profile 'papers'"),
        (
            lambda home: rank(home / "out", metrics="psnr", test="t"),
            ConfigError,
            "test is one of permutation, wilcoxon",
        ),
        (lambda home: rank(home / "out", metrics="psnr", id_pattern="("), ConfigError, "no regular expression"),
        (
            lambda home: rank(home / "out", metrics="psnr", limit=0),
            ConfigError,
            "limit is a whole number of at least 1",
        ),
        (lambda home: rank(home / "out", metrics="psnr", limit=1.5), ConfigError, "not 1.5"),
        (lambda home: rank(home / "out", metrics="psnr", resamples=0), ConfigError, "at least 100, not 0"),
        (lambda home: rank(home / "out", metrics="psnr", ids=[]), ConfigError, "ids is a list of at least one id"),
        (lambda home: rank(home / "out", metrics="psnr", ids="a"), ConfigError, "at least one id, not 'a'"),
        (lambda home: rank(home / "out", metrics="psnr", ids=["a"], limit=1), ConfigError, "exclude each other"),
    ],
)
def test_what_goes_wrong_is_a_sentence_of_ours(
    home: Path, ask: Callable[[Path], object], error: type[LucidFluxError], told: str
) -> None:
    with pytest.raises(error) as raised:
        ask(home)
    assert told in str(raised.value)
