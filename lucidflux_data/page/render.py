"""How a page is made: a template of a room, in the frame and the style of the house."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from lucidflux_data.escapes import for_script, show

HERE = Path(__file__).parent
CHARTS = (HERE / "uPlot.iife.min.js", HERE / "charts.js")  # scripts of a page that has charts
# One file, no network: pictures are in the page, and no script runs but those whose sha256 are named here.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {}"


def render_page(
    template: Path, data: object = None, scripts: Sequence[Path] = (), styles: Sequence[Path] = (), **values: object
) -> bytes:
    """The page of a Jinja2 template that extends house.html.j2, as UTF-8 bytes.

    `data`: what the scripts find in the element `data`, as JSON; `scripts`, `styles`: files that go into the page as
    they stand. Every value is escaped for HTML but those that are Markup, and characters that are not seen are made
    visible; one that is missing is an error.
    """
    sources = [path.read_text(encoding="utf-8") for path in scripts]
    charts = [HERE / "uPlot.min.css"] if CHARTS[0] in scripts else []
    licence = (HERE / "uPlot.LICENSE").read_text(encoding="utf-8") if charts else None
    house: dict[str, object] = {
        "policy": POLICY.format(" ".join(map(_hash_script, sources)) or "'none'"),
        "styles": [Markup(path.read_text(encoding="utf-8")) for path in (*charts, HERE / "house.css", *styles)],
        "licence": None if licence is None else Markup(licence),
        "scripts": [Markup(source) for source in sources],
        "data": None if data is None else Markup(for_script(data)),
    }
    return _render(template, house | values).encode()


def render_fragment(template: Path, **values: object) -> str:
    """What a notebook shows of an object: the HTML of a template that includes notebook.html.j2, with its pictures in
    it. Values are escaped as those of a page."""
    return _render(template, values)


def _render(template: Path, values: Mapping[str, object]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_make_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": "{:,}".format, "share": "{:.1%}".format, "number": "{:.4g}".format}
    text: str = environment.get_template(template.name).render(**values)
    return text


def _make_visible(value: object) -> object:
    return show(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash_script(source: str) -> str:
    """As a Content-Security-Policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
