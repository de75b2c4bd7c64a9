"""vote.html in a real Chromium, opened as a file: simulated raters of known preference answer by keys and clicks."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from lucidflux_data.images import decode
from tests.benchmarks.votes.test_strengths import most_likely
from tests.support import chromium
from tests.support.pages import CONTRAST, SCHEMES, UNNAMED, WIDER, WIDTHS, check_page, settle

METHODS = ("nearest", "bicubic", "lanczos", "blurred")
TRUTH = {"nearest": -0.5, "bicubic": 0.3, "lanczos": 0.8, "blurred": -0.6}
CODES = "panes.map(p => Object.keys(data.pictures).find(c => data.pictures[c] === p.firstElementChild.src))"


@pytest.fixture(scope="module")
def asked(photos: Path, bench, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The page's folder, and the options that both commands take."""
    folders = [photos / "methods" / name for name in METHODS]
    options = ["--outputs", *folders, "--inputs", photos / "lq", "--gt", photos / "gt"]
    out = tmp_path_factory.mktemp("vote")
    done = bench("vote", *options, "--out", out, "--trials", 30, "--repeat", 0.2, "--beside", "input", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["comparisons"], told["repeated"], told["images"], told["pictures"]) == (36, 6, 6, 24 + 6)
    return [out, *options]


@pytest.fixture(scope="module")
def method_of(photos: Path, asked: list[object]) -> dict[str, tuple[str, str]]:
    """code -> (method, id), as who has the outputs finds it."""
    from benchmarks import evaluation
    from benchmarks.methods import submission
    from benchmarks.votes.study import code_pictures, name_study

    methods = submission.find_methods([str(photos / "methods" / name) for name in METHODS])
    suite = evaluation.choose_suite(None, Path(), methods, evaluation.Places(photos / "lq", photos / "gt"))
    submission.inspect(methods, suite, tuple(suite.ids or ()))
    pictures = code_pictures(name_study(suite, 0, "input"), methods)
    return {code: (picture.method, picture.id) for code, picture in pictures.items()}


def begin(tab: chromium.Page, page: Path, rater: str) -> None:
    tab.resize(1280, 900)
    tab.open(page)
    tab.value(f"document.getElementById('rater').value = {rater!r}; document.getElementById('rater').focus()")
    tab.key("Enter")


def wait_until(tab: chromium.Page, what: str, patience_s: float = 20) -> None:
    end = time.monotonic() + patience_s
    while not tab.value(what):
        assert time.monotonic() < end, what


def press(tab: chromium.Page, key: str, number: int) -> None:
    """Answers trial `number` as a rater does: presses again where nothing happens (Chromium drops a key in some twenty
    that comes within a tenth of a second of a new page)."""
    for patience_s in (3, 20):
        tab.key(key)
        try:
            wait_until(tab, f"votes.length === {number + 1}", patience_s)
        except AssertionError:
            if patience_s == 20:
                raise
        else:
            return


# Answers by what is shown: `chosen` has the code of the better of two, by both codes and how often they were shown.
REST = """(async chosen => { const given = []; for (;;) {
  while (shownAt === null) {
    if (!document.getElementById('end').hidden) return given;
    await new Promise(done => setTimeout(done, 1));
  }
  const [left, , right] = %s, best = chosen[[left, right].sort().join() + asked[votes.length].repeat];
  const key = best === left ? 'ArrowLeft' : 'ArrowRight';
  document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  given.push([best, best === left ? right : left]);
} })"""  # fmt: skip


def answer_all(tab: chromium.Page, method_of: dict[str, tuple[str, str]], seed: int) -> list[tuple[str, ...]]:
    """(id, chosen, other) of every answer, the first ones by real keys. A rater of seed 0 never errs, others draw by
    the strengths of TRUTH."""
    rng, chosen = np.random.default_rng(seed), {}
    for first, second in combinations(sorted(method_of), 2):
        if method_of[first][1] == method_of[second][1]:
            better = TRUTH[method_of[first][0]] - TRUTH[method_of[second][0]]
            for repeat in (0, 1):
                wins = better > 0 if seed == 0 else rng.random() < 1 / (1 + np.exp(-better))
                chosen[f"{first},{second}{repeat}"] = first if wins else second
    given = []
    for number in range(3):
        wait_until(tab, f"votes.length === {number} && shownAt !== null")
        left, _, right = tab.value(CODES)
        best = chosen[",".join(sorted((left, right))) + "0"]
        press(tab, "ArrowLeft" if best == left else "ArrowRight", number)
        given.append([best, right if best == left else left])
    wait_until(tab, "votes.length === 3 && shownAt !== null")
    given += tab.value(f"({REST % CODES})({json.dumps(chosen)})")
    return [(method_of[best][1], method_of[best][0], method_of[other][0]) for best, other in given]


def saved(tab: chromium.Page, folder: Path, rater: str) -> Path:
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    tab.click("#download")
    path, end = folder / f"votes-{rater}.csv", time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    return path


def test_raters_of_known_preference_are_found_again(
    asked: list[object], method_of: dict[str, tuple[str, str]], tab: chromium.Page, tmp_path: Path, bench
) -> None:
    out, *options = asked
    files, given = [], []
    for seed, rater in enumerate(("sure one", "Évà.2", "c-3")):
        begin(tab, Path(str(out), "vote.html"), rater)
        given.append(answer_all(tab, method_of, seed))
        files.append(saved(tab, tmp_path, rater))
        assert (tab.console, tab.requests) == ([], [])
    for path, answers in zip(files, given, strict=True):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        told = [(method_of[row[row["choice"]]], method_of[row["left" if row["choice"] == "right" else "right"]])
                for row in rows]  # fmt: skip
        assert [(won[1], won[0], lost[0]) for won, lost in told] == answers
        assert Counter(row["repeat"] for row in rows) == {"0": 30, "1": 6}
        once = {frozenset((row["left"], row["right"])): row for row in rows if row["repeat"] == "0"}
        assert len(once) == 30
        for row in (row for row in rows if row["repeat"] == "1"):
            before = once[frozenset((row["left"], row["right"]))]
            assert (row["left"], row["right"]) == (before["right"], before["left"]), "the sides are changed"
            assert rows.index(row) - rows.index(before) > 5
        firsts = [row["left"] < row["right"] for row in rows if row["repeat"] == "0"]
        assert sum(firsts) == 15, "each picture is on the left as often as on the right"
    assert [answer[0] for answer in given[0]] != [answer[0] for answer in given[1]], "raters have orders of their own"
    results = tmp_path / "results"
    done = bench(*options, "--votes", *files, "--metrics", "psnr,ssim", "--out", results, "--num-cpus", 1)
    assert done.returncode == 0, done.stderr
    board = json.loads((results / "leaderboard.json").read_text())
    votes = board["votes"]
    lines = [path.read_text().splitlines()[1:] for path in files]
    once = [row for answers, told in zip(given, lines, strict=True) for row, line in zip(answers, told, strict=True)
            if line.split(",")[2] == "0"]  # fmt: skip
    wins = np.array([[sum(row[1:] == (i, j) for row in once) for j in METHODS] for i in METHODS])
    assert votes["votes"] == len(once) == 90
    assert [votes["rows"][name]["wins"] for name in METHODS] == wins.sum(axis=1).tolist()
    assert [votes["rows"][name]["strength"] for name in METHODS] == pytest.approx(most_likely(wins), abs=1e-4)
    assert votes["rows"]["lanczos"]["rank"] == 1
    assert votes["raters"]["sure one"]["same"] == votes["raters"]["sure one"]["repeats"] == 6
    for name in ("leaderboard.md", "report.html"):
        text = (results / name).read_text()
        assert all(word in text for word in ("Agreement with the votes", "sure one", votes["study"])), name
    rows = [
        row for row in csv.DictReader((results / "leaderboard.csv").read_text().splitlines()) if row["kind"] == "votes"
    ]
    assert [float(row["mean"]) for row in rows] == [votes["rows"][name]["strength"] for name in votes["rows"]]
    assert all(text in done.stdout for text in ("Raters", "90 of 3 raters"))
    tab.open(results / "report.html")
    cells = tab.value("[...document.querySelectorAll('#votes + .wide tbody tr')].map(r => r.cells[0].textContent)")
    assert cells == sorted(METHODS, key=lambda name: votes["rows"][name]["rank"])
    assert (tab.console, tab.requests, tab.value(WIDER)) == ([], [], 0)


def test_pictures_are_exact_and_nothing_tells_the_method(
    asked: list[object], method_of: dict[str, tuple[str, str]], photos: Path, tab: chromium.Page
) -> None:
    page = Path(str(asked[0]), "vote.html")
    text = page.read_text()
    assert not [name for name in METHODS if name in text]
    begin(tab, page, "looker")
    wait_until(tab, "shownAt !== null")
    pixels = """panes.map(p => { const i = p.firstElementChild, c = document.createElement('canvas');
        c.width = i.naturalWidth; c.height = i.naturalHeight; const g = c.getContext('2d'); g.drawImage(i, 0, 0);
        return [...g.getImageData(0, 0, c.width, c.height).data]; })"""
    shown = [np.array(values, np.uint8) for values in tab.value(pixels)]
    left, _, right = tab.value(CODES)
    for code, values in ((left, shown[0]), (right, shown[2])):
        method, id_ = method_of[code]
        there = decode((photos / "methods" / method / f"{id_}.png").read_bytes())
        assert (values.reshape(192, 192, 4)[..., :3] == there).all()
    lq = decode((photos / "lq" / f"{method_of[left][1]}.png").read_bytes())
    assert (shown[1].reshape(48, 48, 4)[..., :3] == lq).all()
    assert tab.value("panes.map(p => p.firstElementChild.alt)") == ["Left picture", "Input", "Right picture"]


def test_one_zoom_moves_all_in_step_and_one_to_one_is_one_to_one(asked: list[object], tab: chromium.Page) -> None:
    begin(tab, Path(str(asked[0]), "vote.html"), "zoomer")
    wait_until(tab, "shownAt !== null")
    places = """panes.map(p => { const b = p.getBoundingClientRect(), i = p.firstElementChild.getBoundingClientRect();
        return [i.x - b.x, i.y - b.y, i.width, i.height]; })"""
    tab.key("1")
    one = tab.value(places)
    assert one[0] == one[1] == one[2]
    assert one[0][2:] == [192, 192], "a pixel of the output is a pixel of the screen"
    for _ in range(6):
        tab.wheel("[data-side=right]", -100)
    settle(tab)
    assert tab.value("document.getElementById('zoom').textContent") == "381%"
    before = tab.value(places)
    tab.drag("[data-side=left]", -60, -40)
    settle(tab)
    after = tab.value(places)
    assert all(each == places[0] for places in (before, after) for each in places)
    assert np.subtract(after[0], before[0]).tolist() == [-60, -40, 0, 0]
    tab.key("0")
    whole = tab.value(places)
    assert min(whole[0][:2]) >= 0, "all of it is seen"
    assert tab.value("votes.length") == 0, "looking is no answer"


def test_answers_stay_go_back_and_are_asked_for_once(asked: list[object], tab: chromium.Page) -> None:
    page = Path(str(asked[0]), "vote.html")
    begin(tab, page, "=1+1")
    assert tab.value("document.getElementById('no-name').checkVisibility()"), "a name that a table would run"
    assert tab.value("document.getElementById('asking').hidden")
    begin(tab, page, "slow one")
    for number, button in enumerate(("left", "right", "left")):
        wait_until(tab, f"votes.length === {number} && shownAt !== null")
        tab.click(f"#{button}")
    wait_until(tab, "votes.length === 3 && shownAt !== null")
    tab.key("Backspace")
    wait_until(tab, "votes.length === 2 && shownAt !== null")
    assert tab.value("document.getElementById('progress').textContent") == "3 of 36"
    begin(tab, page, "slow one")
    wait_until(tab, "shownAt !== null")
    assert tab.value("votes.map(v => v.choice)") == ["left", "right"], "a closed page goes on"
    first = tab.value("asCsv()").splitlines()[1:]
    begin(tab, page, "someone else")
    assert tab.value("votes.length") == 0
    assert [line.split(",")[1] for line in first] == ["slow one"] * 2


def test_it_fits_and_can_be_read(asked: list[object], tab: chromium.Page) -> None:
    page = Path(str(asked[0]), "vote.html")
    check_page(tab, page)
    begin(tab, page, "reader")
    wait_until(tab, "shownAt !== null")
    for scheme in SCHEMES:
        for width in WIDTHS:
            tab.resize(width, 900, scheme)
            settle(tab)
            assert tab.value(WIDER) <= 0, width
        assert tab.value(CONTRAST) == [], scheme
    assert tab.value(UNNAMED) == []
    tab.resize(1280, 900)
