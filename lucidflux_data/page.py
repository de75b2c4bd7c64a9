"""The frame and the stylesheet of the HTML pages."""

from __future__ import annotations

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
