"""The frame of the pages: what is escaped, which scripts run, and charts that zoom, in a real Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from lucidflux_data.page.charts import Chart, short
from lucidflux_data.page.render import CHARTS, render_page
from tests.lucidflux_data.test_escapes import is_seen
from tests.support import chromium
from tests.support.hostile import SCRIPT, TEXTS

TEMPLATE = """{% extends "house.html.j2" %}
{% import "parts.html.j2" as parts %}
{% block title %}{{ name }}{% endblock %}
{% block main %}<p title="{{ name }}">{{ name }}</p>{{ raw }}
{% for id, chart in charts.items() %}{{ parts.chart(id, chart) }}{% endfor %}{% endblock %}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "own.html.j2").write_text(TEMPLATE)
    return tmp_path / "own.html.j2"


def chart(**other: object) -> Chart:
    whole: Chart = {
        "kind": "lines",
        "title": "Loss",
        "note": "",
        "spoken": "falls",
        "x_title": "step",
        "log": False,
        "x": [1, 2, 3, 4, 5, 6, 7, 8, 9],
        "series": [{"name": "a", "values": [9, 8, 7, None, 5, 4, 3, 2, 1]}],
        "marks": [],
    }
    return {**whole, **other}  # type: ignore[typeddict-item]


def test_a_script_that_no_file_brings_does_not_run(template: Path, tab: chromium.Page) -> None:
    """Even where markup gets past the escape: the policy names the scripts of the page by their sha256."""
    markup = f"<script>{SCRIPT}</script><img src=x onerror={SCRIPT}><a id=j href='javascript:{SCRIPT}'>j</a>"
    page = template.with_name("page.html")
    page.write_bytes(render_page(template, {"charts": {}}, CHARTS, name="a", raw=Markup(markup), charts={}))
    tab.open(page)
    tab.value("document.getElementById('j').click()")
    assert tab.value("document.documentElement.dataset.hostile ?? null") is None
    assert tab.value("typeof House.make") == "function", "its own script ran"
    assert sum("Content Security Policy" in line for line in tab.console) >= 3
    assert tab.requests == []
    tab.open_url("about:blank")


def test_every_value_is_escaped_and_seen_and_none_may_be_missing(template: Path) -> None:
    for text in TEXTS:
        page = render_page(template, name=text, raw=text, charts={}).decode()
        assert is_seen(page, "\n\t")
        assert "<script" not in page
        assert "<img" not in page
    with pytest.raises(UndefinedError):
        render_page(template, charts={}, raw="")
    assert render_page(template, name="a", raw="", charts={}) == render_page(template, name="a", raw="", charts={})


def test_charts_zoom_by_mouse_and_by_keys_and_read_their_values(template: Path, tab: chromium.Page) -> None:
    bars = chart(kind="bars", log=True, x=[0, 1, 2, 3], series=[{"name": "images", "values": [1, 5, 2]}],
                 marks=[{"at": 2, "text": "minimum 99"}])  # fmt: skip
    one = chart(x_title="epoch", x=[3], series=[{"name": "a", "values": [7]}])
    charts = {"loss": chart(), "bars": bars, "one": one}
    page = template.with_name("page.html")
    page.write_bytes(render_page(template, {"charts": charts}, CHARTS, name="a", raw="", charts=charts))
    tab.resize(1300, 900)
    tab.open(page)
    ends = "[House.made[0].scales.x.min, House.made[0].scales.x.max]"
    whole = "document.querySelector('.whole').hidden"
    said = "[...document.querySelectorAll('.chart')].map(c => c.querySelector('.readout').textContent)"
    assert tab.value(ends) == [1, 9]
    assert tab.value("[House.made[2].scales.x.min, House.made[2].scales.x.max]") == [2, 4]
    assert tab.value(said) == ["last1", "fallsimages", "last7"]
    tab.drag("[data-chart=loss] .u-over", 200, 0)
    low, high = tab.value(ends)
    assert 4 < low < high < 9
    assert tab.value(whole) is False
    tab.click(".whole")
    assert tab.value(ends) == [1, 9]
    assert tab.value(whole) is True
    tab.value("document.querySelector('[data-chart=loss]').focus()")
    tab.key("Home")
    for _ in range(4):
        tab.key("ArrowRight")
    assert tab.value(said)[0] == "step 55", "step 5, value 5"
    tab.key("+")
    assert tab.value(ends) == pytest.approx([3, 7])
    tab.key("0")
    assert tab.value(ends) == [1, 9]
    tab.value("document.querySelector('[data-chart=bars]').focus()")
    tab.key("ArrowRight")
    tab.key("ArrowRight")
    assert tab.value(said)[1] == "9 to 995 images"
    red = """(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
      for (let i = 0; i < d.length; i += 4) n += d[i] > 180 && d[i + 1] < 90 && d[i + 2] < 90 && d[i + 3] > 200;
      return n; })(document.querySelectorAll('canvas')[1])"""
    assert tab.value(red) > 100, "the line at the limit, and its word"
    assert (tab.console, tab.requests) == ([], [])
    tab.open_url("about:blank")


@pytest.mark.parametrize(
    ("value", "text"),
    [(8000.0, "8,000"), (0.5, "0.5"), (4.67123, "4.671"), (123456.7, "123,457"), (1.23e-5, "1.23e-05"), (0.0, "0")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
