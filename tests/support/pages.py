"""What every page keeps, in a real Chromium: it fits, can be read, says what its pictures are, asks for no network."""

from __future__ import annotations

from pathlib import Path

from lucidflux_data.page import render
from tests.support import chromium

HOUSE = (Path(render.__file__).parent / "house.css").read_text()
WIDTHS, SCHEMES = (1300, 800, 400), ("light", "dark")
SETTLED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
# The relative luminance of WCAG 2.2, of colours painted over each other.
LIGHT = """const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = colours => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = Array.from(canvas.getImageData(0, 0, 1, 1).data).map(v => v / 255)
      .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (...painted) => {
    const [a, b] = painted.map(light).sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };"""
# Texts of less than 4.5:1, colours of each kind looked at once.
CONTRAST = f"""(() => {{ {LIGHT}
  const seen = new Map();
  for (const e of document.querySelectorAll('body *')) {{
    if (e.disabled || !e.checkVisibility()) continue;
    if (![...e.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())) continue;
    const behind = [];
    for (let at = e; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const kind = JSON.stringify([behind, getComputedStyle(e).color]);
    if (!seen.has(kind)) seen.set(kind, e.textContent.trim().slice(0, 40));
  }}
  return [...seen].map(([kind, text]) => {{
    const [behind, colour] = JSON.parse(kind);
    return [contrast(behind, [...behind, colour]), text];
  }}).filter(([ratio]) => ratio < 4.5);
}})()"""
# What is painted into charts, from the variables that it is painted with: texts, and lines (3:1).
IN_CHARTS = f"""(() => {{ {LIGHT}
  const value = name => getComputedStyle(document.documentElement).getPropertyValue(name);
  const ratio = name => contrast([value('--back')], [value(name)]);
  const low = (names, least) => names.filter(name => ratio(name) < least);
  return [...low(['--ink', '--soft', '--bad'], 4.5), ...low([1, 2, 3, 4, 5].map(k => '--line-' + k), 3)];
}})()"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, summary, a, [tabindex]')]
  .filter(e => e.checkVisibility() && !(e.labels?.length || e.ariaLabel || e.textContent.trim()))
  .map(e => e.outerHTML.slice(0, 80))"""
WITHOUT_ALT = "[...document.images].filter(i => i.checkVisibility() && !i.hasAttribute('alt')).length"
BROKEN = "[...document.images].filter(i => i.src && i.complete && !i.naturalWidth).length"
BLANK = """[...document.querySelectorAll('.plot')].filter(p => p.checkVisibility()).filter(p => {
  const c = p.querySelector('canvas');
  const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  if (!c) return true;
  [copy.canvas.width, copy.canvas.height] = [c.width, c.height];
  copy.drawImage(c, 0, 0);
  return !copy.getImageData(0, 0, c.width, c.height).data.some(v => v > 0);
}).map(p => p.dataset.chart)"""


def settle(tab: chromium.Page) -> None:
    tab.value(SETTLED)


def check_page(tab: chromium.Page, path: Path) -> None:
    """In every width and scheme, with all that folds open; leaves the page open at the first of both."""
    tab.open(path)
    tab.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert HOUSE in tab.value("document.querySelector('style').textContent"), "one stylesheet for all pages"
    assert tab.value("document.documentElement.lang") == "en"
    assert tab.value("document.querySelector('meta[name=viewport]') !== null")
    assert "default-src 'none'" in tab.value("document.querySelector('meta[http-equiv]').content")
    for scheme in SCHEMES:
        for width in WIDTHS:
            tab.resize(width, 900, scheme)
            settle(tab)
            assert tab.value(WIDER) <= 0, (path.name, width)
            assert tab.value(BLANK) == [], (path.name, width, scheme)
        assert tab.value(CONTRAST) == [], (path.name, scheme)
        assert tab.value(IN_CHARTS) == [], scheme
    assert tab.value(UNNAMED) == []
    assert (tab.value(WITHOUT_ALT), tab.value(BROKEN)) == (0, 0)
    assert tab.console == []
    assert tab.requests == []
    tab.resize(WIDTHS[0], 900, SCHEMES[0])
    settle(tab)
