"""What the page shows and does, in a real Chromium: at three widths, light and dark, with hostile names."""

from __future__ import annotations

import json
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lucidflux_data.escapes import show
from lucidflux_data.explore.page import make_explore
from lucidflux_data.explore.pictures import CROP_PX, choose_rows, cut_picture, find_places, take_pictures
from lucidflux_data.explore.rows import read_deciding
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.storage.folder import Folder
from tests.lucidflux_data.test_escapes import is_seen
from tests.support import chromium
from tests.support.here import select_into
from tests.support.hostile import TEXTS
from tests.support.pages import check_page, settle
from tests.support.run_files import rewrite_run


@pytest.fixture
def run(half: Path) -> Path:
    return half


@pytest.fixture(autouse=True)
def _quiet(tab: chromium.Page) -> Iterator[None]:
    yield
    assert (tab.console, tab.requests) == ([], [])


def test_it_fits_and_can_be_read(run: Path, tab: chromium.Page, explore: Callable) -> None:
    explore(run)
    check_page(tab, run / "explore.html")
    assert tab.value("[...document.querySelectorAll('#rules input')].every(i => i.labels.length || i.ariaLabel)")


def test_a_slider_moves_the_counts_the_url_and_the_command(run: Path, tab: chromium.Page, explore: Callable) -> None:
    tab.resize(1300, 900)
    explore(run)
    before = tab.value("document.querySelector('#kept').textContent")
    assert before == str(tab.value("explore.counter.own.codes.filter(c => c === -1).length"))
    tab.click("#rule-min_laplacian_variance-range")  # the middle of the slider
    for _ in range(3):
        tab.key("ArrowRight")
    settle(tab)
    value = tab.value("+document.querySelector('#rule-min_laplacian_variance-value').value")
    assert value != 150
    assert tab.value("location.hash") == f"#min_laplacian_variance={value:g}"
    command = tab.value("document.querySelector('#command').value")
    assert shlex.split(command) == [
        "lucidflux-data",
        "select",
        str(run),
        "--set",
        f"rules.min_laplacian_variance={value:g}",
    ]
    assert "Blur" in tab.value("document.querySelector('#cut-title').textContent")
    differs = "[...document.querySelectorAll('#differs li')].map(e => e.textContent)"
    assert tab.value(differs) == [f"rules.min_laplacian_variance 150 → {value:g}"]
    kept = tab.value("explore.counter.count(explore.page.fromHash(location.hash, {})).kept")
    assert tab.value("document.querySelector('#kept').textContent").removeprefix("at least ") == str(kept)
    tab.click("#reset")
    settle(tab)
    assert tab.value("[location.hash, document.querySelector('#kept').textContent]") == ["", before]
    assert tab.value(differs) == []


def test_a_link_is_a_proposal(run: Path, tab: chromium.Page, explore: Callable) -> None:
    explore(run, fragment="#max_laplacian_variance=1000&cut=k&at=3&out=00000000000000000000")
    assert tab.value("document.querySelector('#kept').textContent") == "3"
    rules = tab.value("[...document.querySelectorAll('#differs li')].map(e => e.textContent)")
    assert rules == ["rules.max_laplacian_variance 8000 → 1000", "cut by niqe best share 0.5 → best 3"]
    assert tab.value("document.querySelector('#save-out').textContent") == "opt-out.txt (1)"
    lost = tab.value("[...document.querySelectorAll('#changed h3')].map(e => e.textContent)")
    assert any("lost" in text for text in lost)
    tab.click("#show-own")
    settle(tab)
    assert tab.value("document.querySelector('#changed').textContent").startswith("Nothing")
    tab.click("#show-you")
    settle(tab)
    assert tab.value("document.querySelector('#kept').textContent") == "3"


def test_the_cut_is_walked_by_keys_and_opened_by_enter(run: Path, tab: chromium.Page, explore: Callable) -> None:
    tab.resize(1300, 900)
    explore(run)
    tab.value("document.querySelector('#cut .tile').focus()")
    tab.key("ArrowRight")
    name = tab.value("document.activeElement.title")
    assert name == tab.value("document.querySelectorAll('#cut .tile')[1].title")
    tab.key("Enter")
    assert tab.value("document.querySelector('#view').open")
    assert tab.value("document.querySelector('#view-name').textContent") == name
    look = "const l = () => document.querySelector('#view img').width === 600 ? d(true) : setTimeout(l, 20)"
    assert tab.value(f"new Promise(d => {{ {look}; l() }})"), "three times the 200 pixels"
    why = tab.value("document.querySelector('#view-why').textContent")
    assert "low IQA" in why
    assert "niqe" in why
    tab.click("#mark-in")
    settle(tab)
    key = tab.value("new URLSearchParams(location.hash.slice(1)).get('in')")
    names = tab.value("explore.columns.names")
    row = names.index(name)
    own = f"Array.from(explore.columns.keys.slice({10 * row}, {10 * row + 10}))"
    assert key == bytes(tab.value(own)).hex()
    assert tab.value("document.querySelector('#save-in').href.startsWith('blob:')")
    assert tab.value("document.querySelector('#command').value").endswith("--include include.txt")


def test_a_number_out_of_bounds_is_one_that_select_takes(tab: chromium.Page, run: Path, explore: Callable) -> None:
    """As the settings allow them; and the bounds of one measure do not cross."""
    explore(run, fragment="#max_flat_fraction=7&min_side=-3&max_blockiness=0.2&min_jpeg_quality=x")
    rules = tab.value("explore.page.fromHash(location.hash, {}).rules")
    assert (rules["max_flat_fraction"], rules["min_side"], rules["max_blockiness"]) == (1, 0, 1)
    assert rules["min_jpeg_quality"] is None
    make_config(settings=[f"rules.{name}={'none' if value is None else value}" for name, value in rules.items()])
    field = "document.querySelector('#rule-min_laplacian_variance-value')"
    tab.value(f"{field}.value = 9000; {field}.dispatchEvent(new Event('input'))")
    settle(tab)
    assert tab.value("document.querySelector('#rule-max_laplacian_variance-value').value") == "9000"
    tab.click("#copy")
    assert tab.value("document.querySelector('#copy').textContent") == "Copied"


def test_a_click_on_a_reason_filters_and_a_search_finds(run: Path, tab: chromium.Page, explore: Callable) -> None:
    tab.resize(1300, 900)
    explore(run)
    tab.click("#bar [data-reason=too_blurry]")
    settle(tab)
    shown = tab.value("[...document.querySelectorAll('#list tbody td:first-child')].map(e => e.textContent)")
    ledger = runs.read_ledger(Folder(str(run)), ["source_key", "reason"]).to_pylist()
    assert shown == [row["source_key"] for row in ledger if row["reason"] == "too_blurry"]
    assert tab.value("document.querySelectorAll('#strip .tile').length") == len(shown)
    tab.value("(i => { i.value = 'PLANTED'; i.dispatchEvent(new Event('input')) })(document.querySelector('#search'))")
    settle(tab)
    assert tab.value("[...document.querySelectorAll('#list tbody td:first-child')].map(e => e.textContent)") == [
        name for name in shown if "planted" in name
    ]


@pytest.mark.parametrize(
    "cut",
    [
        {"mode": "bound", "bound": 4.25},
        {"mode": "k", "k": 3},
        {"mode": "fraction", "fraction": "0.07"},
        {"mode": "all"},
    ],
)
def test_command_and_toml_give_the_settings_that_are_shown(
    run: Path, cut: dict, tmp_path: Path, tab: chromium.Page, explore: Callable
) -> None:
    """Through the parser of the command line and through --config, both to the count of the page."""
    from typer.testing import CliRunner

    from cli import data_app

    explore(run)
    changed = f"{{...explore.about.own.cut, ...{json.dumps(cut)}}}"
    state = f"{{rules: {{...explore.about.own.rules, min_side: 300}}, cut: {changed}}}"
    marks = "{out: new Set(), in: new Set()}, explore.counter.sameCut"
    kept = tab.value(f"explore.counter.count({state}).kept")
    command = shlex.split(tab.value(f"explore.page.toCommand({state}, {marks})"))
    toml = tab.value(f"explore.page.toToml({state}, {marks})")
    (tmp_path / "file.toml").write_text(toml)
    tomllib.loads(toml)
    use = shlex.split(toml.splitlines()[0].removeprefix("# ").replace("FILE", str(tmp_path / "file.toml")))
    for asked in (command, use):
        assert asked[:3] == ["lucidflux-data", "select", str(run)]
        done = CliRunner().invoke(data_app, [*asked[1:], "--dry-run", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["kept_by_the_rules"] == kept


def test_hostile_names_do_nothing(tmp_path: Path, tab: chromium.Page, explore: Callable) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, text in enumerate(TEXTS):
        pixels = np.random.default_rng(number).integers(0, 255, (112, 112, 3), np.uint8)
        (source / f"{number} {text}.jpg".replace("/", "\u2215")).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    run = tmp_path / f"run {TEXTS[3]}".replace("/", "\u2215")
    select_into(source, run, "iqa.metric=none", "rules.max_laplacian_variance=1e9")
    explore(run)
    text = tab.value("document.documentElement.textContent")
    assert tab.value("document.documentElement.dataset.hostile ?? null") is None
    assert tab.value("document.querySelectorAll('[onerror], [onload], [onmouseover]').length") == 0
    assert is_seen(text, "\n\t")
    assert [t for t in TEXTS if show(t.replace("/", "\u2215")) not in text] == []
    command = shlex.split(tab.value("document.querySelector('#command').value"))
    assert command == ["lucidflux-data", "select", str(run)]


def test_equal_runs_give_equal_pages_and_no_picture_comes_from_other_bytes(run: Path, tmp_path: Path) -> None:
    page = make_explore(Folder(str(run)), "run")[0]
    assert page == make_explore(Folder(str(run)), "run")[0]
    assert b"default-src 'none'" in page.replace(b"&#39;", b"'")
    copy = Folder(str(tmp_path / "copy"))
    shutil.copytree(run, tmp_path / "copy")
    config = FilterConfig.model_validate(runs.read_run(copy)["config"])
    deciding = read_deciding(copy, load_pool(runs.parts(copy)), config)
    rows = choose_rows(deciding, {"laplacian_variance": [150.0]}, np.arange(len(deciding)))
    nearest = np.argsort(np.abs(deciding.measures["laplacian_variance"] - 150.0))[:2]
    assert set(nearest.tolist()) <= set(rows[:4]), "the nearest to a limit come first"
    pictures, _ = take_pictures(copy, rows, config.decode, 10**9)
    some, _ = take_pictures(copy, rows, config.decode, 60_000)
    assert 0 < sum(picture.size() for picture in some.values()) <= 60_000
    assert list(some) == list(pictures)[: len(some)]


def test_pieces_are_the_sharpest_and_the_flattest_place() -> None:
    grey = np.full((480, 640), 100, np.uint8)
    grey[:, :320] = 100 + np.random.default_rng(0).integers(0, 20, (480, 320))
    grey[240:440, 80:280] = np.random.default_rng(1).integers(0, 255, (200, 200))
    sharp, flat = find_places(grey)
    assert sharp == (240, 80)
    assert flat[1] >= 320
    energy = np.square(cv2.Laplacian(grey, cv2.CV_64F))
    places = [(y, x) for y in range(0, 281, 8) for x in range(0, 441, 8)]
    sums = {(y, x): energy[y : y + CROP_PX, x : x + CROP_PX].sum() for y, x in places}
    assert sharp == max(sums, key=lambda place: (sums[place], -place[0], -place[1]))
    small = cut_picture(np.dstack([grey[:90, :120]] * 3))
    assert all(url.startswith("data:image/webp;base64,") for url in small)


def test_the_command_writes_the_page_and_says_what_is_in_it(run: Path, tmp_path: Path, data_command: Callable) -> None:
    shutil.copytree(run, tmp_path / "copy")
    done = data_command("explore", tmp_path / "copy", "--json")
    told = json.loads(done.stdout)
    assert told["page"] == str(tmp_path / "copy" / "explore.html")
    assert told["bytes"] == (tmp_path / "copy" / "explore.html").stat().st_size
    assert told["candidates"] == told["shown"] > told["pictures"] > 15
    (tmp_path / "copy" / "selected.parquet").unlink()
    done = data_command("explore", tmp_path / "copy")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "lucidflux-data select" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [("where_tile", "blockiness < 2"), ("semantic_duplicates", 0.9), ("quota", ["flags=9"]), ("balance", 4)],
)
def test_what_no_page_can_decide_is_a_sentence_with_what_to_do(
    run: Path, tmp_path: Path, data_command: Callable, name: str, value: object
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "explore.html").unlink(missing_ok=True)  # of a test before this one
    about = json.loads((copy / "run.json").read_text())
    about["config"]["select"][name] = value
    rewrite_run(copy, about)
    result = data_command("explore", copy)
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("\n") == 1
    assert f"select.{name}" in result.stderr
    assert "report RUN` shows what is kept" in result.stderr
    assert not (copy / "explore.html").exists()


def test_a_ledger_that_scores_no_longer_give_is_refused(run: Path, tmp_path: Path) -> None:
    from lucidflux_data.errors import InputError

    shutil.copytree(run, tmp_path / "copy")
    folder = Folder(str(tmp_path / "copy"))
    base = FilterConfig.model_validate(runs.read_run(folder)["config"])
    changed = make_config(settings=["cut.top_fraction=0.1"], base=base)
    from lucidflux_data.selection import ledger

    ledger.write_ledger(folder, load_pool(runs.parts(folder)), changed)
    with pytest.raises(InputError, match="decides again"):
        make_explore(folder, "run")
