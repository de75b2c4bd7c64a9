"""The frame, the colours and the templates of the HTML pages."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

# One file, no network: pictures are in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
COLOURS = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#566270;--line:#d8dee6;--back:#fff;--panel:#f6f8fa;--blue:#2f6aa8;
--pale:#c9d2dc;--good:#1c7a3d;--bad:#b3261e;--chosen:#e8f1fb}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#a3aebb;--line:#38424e;--back:#14181d;--panel:#1c2229;
--blue:#78aee6;--pale:#4b5866;--good:#6fcf8e;--bad:#ff8f85;--chosen:#22344a}}
"""
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1080px;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2.2rem;border-bottom:1px solid #d8dee6}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left}td.n{text-align:right}
.bar{background:#3b6ea8;height:.8rem;display:inline-block;vertical-align:middle}.bar.out{background:#c9d2dc}
.sheet{display:flex;flex-wrap:wrap;gap:.6rem}figure{margin:0;width:160px;font-size:12px;word-break:break-all}
figure img{max-width:160px;max-height:160px;display:block}.note{color:#5b6775}svg text{font-size:11px;fill:#5b6775}
"""


def render_page(title: str, body: str) -> bytes:
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    return f"{head}{body}</html>\n".encode()


def render_template(template: Path, **values: object) -> bytes:
    """The page of a Jinja2 template as UTF-8 bytes. Every value is escaped for HTML but those that are Markup; one that
    is missing is an error. `policy` and `colours` are given to each template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    shared = {"policy": POLICY, "colours": Markup(COLOURS)}
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template.name).render(**shared, **values).encode()


def part_of_page(path: Path) -> Markup:
    """A stylesheet or script of this package that goes into a page as it stands."""
    return Markup(path.read_text(encoding="utf-8"))
