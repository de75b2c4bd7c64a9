"""The pictures of the pages in docs/figures: `python -m tests.support.screenshots DEMO docs/figures`.

DEMO is what `lucidflux demo --full` wrote, with `lucidflux-data explore DEMO/run`: free photos alone. Each picture has
the top of a page at 1300 pixels in the light scheme and, right of it, a part at 400 pixels in the dark one.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support import chromium

PAGES = {  # name of the picture -> page, and what is at the top of its narrow half
    "filter-report": ("run/report.html", "#score-niqe"),
    "explore": ("run/explore.html", "body"),
    "pairs": ("pairs/view.html", "body"),
    "leaderboard": ("bench/results/report.html", "#scores"),
    "training": ("model/train/report.html", "#curves"),
}
WIDE, NARROW, HEIGHT, LINE = 1300, 400, 1180, 2
QUALITY = 80  # of WebP


def take(tab: chromium.Page, page: Path, width: int, scheme: str, top: str) -> Image.Image:
    """A page from an element on, without scroll bars."""
    tab.resize(width, HEIGHT, scheme)
    tab.call("Emulation.setScrollbarsHidden", hidden=True)
    tab.open(page)
    tab.value("Promise.all([...document.images].filter(i => i.src && i.loading !== 'lazy').map(i => i.decode()))")
    tab.value(f"document.querySelector({top!r}).scrollIntoView()")
    tab.value("new Promise(done => setTimeout(done, 500))")  # lazy pictures
    return Image.open(io.BytesIO(tab.capture()))


def main(demo: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        tab = chromium.Page(Path(profile))
        try:
            for name, (page, part) in PAGES.items():
                whole = Image.new("RGB", (WIDE + LINE + NARROW, HEIGHT), "#8b949e")
                whole.paste(take(tab, demo / page, WIDE, "light", "body"), (0, 0))
                whole.paste(take(tab, demo / page, NARROW, "dark", part), (WIDE + LINE, 0))
                whole.save(out / f"{name}.webp", quality=QUALITY, method=6)
                print(name, (out / f"{name}.webp").stat().st_size)
        finally:
            tab.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
