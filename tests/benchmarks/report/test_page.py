"""report.html in a real Chromium: tables sort, the slider moves, pictures load, no error, no request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import tables
from tests.support import chromium
from tests.support.pages import check_page


@pytest.fixture(scope="module")
def page(scored: Path, tab: chromium.Page) -> chromium.Page:
    tab.resize(1280, 900)
    tab.open(scored / "report.html")
    return tab


@pytest.fixture(autouse=True)
def _quiet(page: chromium.Page) -> Iterator[None]:
    yield
    assert page.console == []
    assert page.requests == []


def column(page: chromium.Page, table: str, index: int) -> list[str]:
    return page.value(f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{index}].dataset.value"
                      f" ?? r.cells[{index}].textContent)")  # fmt: skip


def test_all_pictures_load(page: chromium.Page) -> None:
    sizes = page.value("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(sizes) == 6 + 2  # tiles of input, four methods, reference; two in the viewer
    assert set(sizes) == {48, 192}


def test_the_leaderboard_holds_the_scores_and_sorts(page: chromium.Page, scored: Path) -> None:
    board = json.loads((scored / "leaderboard.json").read_text())
    names = page.value("[...document.querySelectorAll('#leaderboard thead th')].map(h => h.textContent)")
    assert names[:5] == ["method", "niqe ↓", "psnr ↑", "ssim ↑", "lr_consistency ↑"]
    page.click("#leaderboard thead th:nth-child(3) button")
    values = [float(value) for value in column(page, "leaderboard", 2)]
    means = [row["mean"] for row in board["metrics"]["psnr"]["rows"].values()]
    assert values == pytest.approx(sorted(means), rel=1e-5)
    page.click("#leaderboard thead th:nth-child(3) button")
    assert [float(value) for value in column(page, "leaderboard", 2)] == values[::-1]
    page.click("#leaderboard thead th:nth-child(1) button")
    assert column(page, "leaderboard", 0) == sorted(board["methods"])


def test_a_heading_sorts_by_the_keyboard(page: chromium.Page) -> None:
    page.value("document.querySelector('#leaderboard thead th:nth-child(2) button').focus()")
    page.key("Enter")
    values = [float(value) for value in column(page, "leaderboard", 1)]
    assert values == sorted(values)
    state = "document.querySelector('#leaderboard thead th:nth-child(2)').getAttribute('aria-sort')"
    assert page.value(state) == "ascending"


def test_images_sort_by_regression(page: chromium.Page, scored: Path) -> None:
    import pyarrow.parquet as pq

    scores = {(r["method"], r["id"]): r["value"] for r in pq.read_table(scored / "per_image.parquet").to_pylist()
              if r["metric"] == "niqe"}  # fmt: skip
    page.value("""for (const [id, v] of [['metric', 'niqe'], ['method-a', 'bicubic'], ['method-b', 'lanczos'],
        ['order', 'regression']]) { const s = document.getElementById(id); s.value = v;
        s.dispatchEvent(new Event('change')); }""")
    ids = column(page, "images", 0)
    gains = {id_: -(scores["bicubic", id_] - scores["lanczos", id_]) for id_ in ids}  # NIQE: lower is better
    assert ids == sorted(ids, key=gains.__getitem__)
    assert len(ids) == 6


def test_the_slider_moves_the_seam_and_the_clip(page: chromium.Page) -> None:
    page.value("document.getElementById('slider').value = 50; document.getElementById('slider').focus()")
    page.value("document.getElementById('slider').dispatchEvent(new Event('input'))")
    page.drag("#slider", 200, 0)
    at = float(page.value("document.getElementById('slider').value"))
    assert 55 < at < 80
    clip = page.value("document.getElementById('clip').style.clipPath")
    assert clip.split()[1] == f"{100 - at:g}%"
    page.value("document.activeElement.blur()")
    page.key("[")
    assert float(page.value("document.getElementById('slider').value")) == at - 5


def test_one_zoom_for_all_pictures(page: chromium.Page) -> None:
    page.value("document.activeElement.blur()")
    page.key("0")
    page.wheel("#viewer", -120)
    page.value("new Promise(done => setTimeout(done, 200))")
    moves = page.value("[...document.querySelectorAll('.viewer img, .pane img')].map(i => i.style.transform)")
    assert len(set(moves)) == 1
    assert "scale(1.25)" in moves[0]
    page.drag(".pane", 30, 20)
    moved = page.value("[...document.querySelectorAll('.viewer img, .pane img')].map(i => i.style.transform)")
    assert len(set(moved)) == 1
    assert moved[0] != moves[0]
    page.key("0")
    assert page.value("document.getElementById('zoom').textContent") == "100%"


def test_n_and_p_and_rows_change_the_image(page: chromium.Page) -> None:
    shown = "document.getElementById('image').value"
    first = page.value(shown)
    page.key("n")
    assert page.value(shown) != first
    page.key("p")
    assert page.value(shown) == first
    page.value("document.querySelector('#images tbody tr[data-id=coins]').focus()")
    page.key("Enter")
    assert page.value(shown) == "coins"
    assert page.value("document.getElementById('left-picture').alt").startswith("coins, ")


def test_the_pictures_are_the_outputs(page: chromium.Page, photos: Path) -> None:
    """A pixel read back from the page is that of the file, within WebP's loss."""
    from lucidflux_data.images import decode

    code = """(() => { const i = [...document.querySelectorAll('.pane')].find(t => t.dataset.name === 'lanczos')
        .querySelector('img'); const c = document.createElement('canvas'); c.width = i.naturalWidth;
        c.height = i.naturalHeight; const g = c.getContext('2d'); g.drawImage(i, 0, 0);
        return [...g.getImageData(0, 0, c.width, c.height).data]; })()"""
    id_ = page.value("document.getElementById('image').value")
    pixels = np.array(page.value(code), np.int16).reshape(192, 192, 4)[..., :3]
    assert np.abs(pixels - decode((photos / "methods" / "lanczos" / f"{id_}.png").read_bytes())).mean() < 3


def test_win_rates_show_one_metric_at_a_time(page: chromium.Page, scored: Path) -> None:
    board = json.loads((scored / "leaderboard.json").read_text())
    rates, order = board["metrics"]["psnr"]["win_rate"], tables.order(board)
    page.value("(s => { s.value = 'psnr'; s.dispatchEvent(new Event('change')); })"
               "(document.getElementById('heat-metric'))")  # fmt: skip
    shown = page.value("[...document.querySelectorAll('.heat')].filter(t => !t.hidden).map(t => t.dataset.metric)")
    assert shown == ["psnr"]
    first = page.value("[...document.querySelectorAll('.heat[data-metric=psnr] tbody tr:first-child td')]"
                       ".map(c => c.textContent)")  # fmt: skip
    assert first == ["", *(f"{rates[order[0]][other]:.0%}" for other in order[1:])]


def test_published_rows_fold_gaps_have_reasons_and_ranks_are_words(
    scored: Path, page: chromium.Page, tmp_path: Path
) -> None:
    from benchmarks.report.page import render_board

    board = json.loads((scored / "leaderboard.json").read_text())
    row = {"method": "<SeeSR>", "source": "P", "reference": "P, Table 1 (x)", "values": {"niqe": 4.4}, "colours": {}}
    board["published"] = [row | {"colours": {"niqe": colour}} for colour in ("green", "yellow", "red", "dim")] * 6
    board["gaps"] = {"bicubic": [{"id": "<coins>", "reason": "missing", "metrics": ["niqe"], "seeds": ["0"]}]}
    empty = {"ids": [], "methods": [], "metrics": {}, "scores": {}, "means": {}, "disagreement": [], "gallery": []}
    (tmp_path / "page.html").write_bytes(render_board(board, empty))
    check_page(page, tmp_path / "page.html")
    page.open(tmp_path / "page.html")
    shown = "document.querySelectorAll('#published tr')[0].checkVisibility()"
    assert page.value(shown) is False
    page.value("document.querySelector('#fold summary').focus()")
    page.key("Enter")
    assert page.value(shown) is True
    page.click("#leaderboard thead th:nth-child(2) button")  # sorting leaves published rows below
    names = page.value("[...document.querySelectorAll('#leaderboard tbody tr')].map(r => r.cells[0].textContent)")
    assert names[4:] == ["<SeeSR> (P)"] * 24
    words = page.value("[...document.querySelectorAll('#leaderboard tbody:first-of-type tr')].map(r => "
                       "r.cells[1].querySelector('.rank').textContent.split(',')[0])")  # fmt: skip
    assert sorted(words) == sorted(["first of 4", "second of 4", "third of 4", "fourth of 4"])
    assert page.value("document.querySelector('.missing summary').textContent") == "bicubic: 1 of 6 images"
    cells = page.value("[...document.querySelectorAll('.missing tbody tr > *')].map(c => c.textContent)")
    assert cells == ["<coins>", "missing in niqe"]
    board["metrics"]["niqe"]["rows"]["bicubic"] |= {"n": 5, "of": 6, "rank": None}
    (tmp_path / "page.html").write_bytes(render_board(board, empty))
    page.open(tmp_path / "page.html")
    lead = page.value("(a => [a.textContent, a.getAttribute('href')])(document.querySelector('td.hole a'))")
    assert (lead[0].split()[-1], lead[1]) == ("n=5/6", "#missing"), "it leads to the reasons"
    page.open(scored / "report.html")


def test_it_fits_and_can_be_read(scored: Path, page: chromium.Page) -> None:
    check_page(page, scored / "report.html")


def test_a_dot_is_read_by_keys_and_opens_its_image(scored: Path, page: chromium.Page) -> None:
    """The first by value is the worst of its method; what the chart says stands in per_image.parquet."""
    import pyarrow.parquet as pq

    rows = pq.read_table(scored / "per_image.parquet").to_pylist()
    least = min((row for row in rows if row["metric"] == "psnr"), key=lambda row: row["value"])
    page.value("document.querySelector('[data-chart=psnr]').focus()")
    page.key("Home")
    plot = "document.querySelector('[data-chart=psnr]').closest('.chart')"
    said = page.value(f"[...{plot}.querySelectorAll('.readout span')].map(s => s.textContent)")
    assert said[:2] == [least["method"], least["id"]]
    assert float(said[2]) == pytest.approx(least["value"], rel=1e-3)
    page.value(f"{plot}.querySelector('.plot').click()")
    assert page.value("document.getElementById('image').value") == least["id"]
    page.value("scrollTo(0, 0)")
