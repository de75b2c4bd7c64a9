"""vote.html: one file that asks, without server or network. Pictures are lossless and in the page, called by codes.

Equal studies give equal bytes. Which trial comes when, and on which side an output stands, follows from the study and
the name of the rater.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

from benchmarks.suites.suite import Suite
from benchmarks.votes.study import Study, shown_beside
from lucidflux_data.codecs.encoding import data_url
from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.page.render import render_page
from lucidflux_data.sources.reading import read_file

LOSSLESS = 101  # as a WebP quality of OpenCV
MOST_BYTES = 256 << 20  # of pictures in a page: a browser keeps them as text


class PageData(TypedDict):
    """What vote.js reads."""

    study: str
    beside: str  # nothing, input or reference
    repeats: int
    trials: list[list[str | None]]  # codes of two outputs and of what stands between them
    pictures: dict[str, str]  # code -> data url


def make_page(study: Study, suite: Suite, advance: Callable[[int], None] = lambda _: None) -> bytes:
    """The page as UTF-8 bytes. `advance` hears of pictures that are done.

    InputError for a picture that cannot be read, and for more than MOST_BYTES of them.
    """
    beside = shown_beside(study, suite)
    files = {code: picture.file.path for code, picture in study.pictures.items()} | dict(beside.values())
    pictures: dict[str, str] = {}
    size = 0
    for code, url in _encode(files):
        size += len(url)
        if size > MOST_BYTES:
            raise InputError(
                f"the page would have more than {MOST_BYTES >> 20} MB after {len(pictures)} of {len(files)} pictures: "
                "ask for fewer with --trials or --limit"
            )
        pictures[code] = url
        advance(1)
    ids = [study.pictures[first].id for first, _ in study.trials]
    data: PageData = {
        "study": study.name,
        "beside": study.beside,
        "repeats": study.repeats,
        "trials": [[*trial, beside[id_][0] if beside else None] for trial, id_ in zip(study.trials, ids, strict=True)],
        "pictures": pictures,
    }
    here = Path(__file__).parent
    return render_page(
        here / "vote.html.j2", data, (here / "vote.js",), (here / "vote.css",),
        trials=len(study.trials) + study.repeats, beside=study.beside,
    )  # fmt: skip


def _encode(files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    for code, path in sorted(files.items()):
        try:
            yield code, data_url(pixels_apart(read_file(path)), "webp", LOSSLESS)
        except ImageError as error:
            raise InputError(f"{path} is {error.reason}: {error.detail}") from None
