"""What a notebook shows of a run: small HTML with its pictures in it, every text escaped by the template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.config import Changes, say_value
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ImageError, InputError, StorageError
from lucidflux_data.isolation import call_apart, decode_here
from lucidflux_data.page.render import render_fragment
from lucidflux_data.selection import records
from lucidflux_data.sources.reading import read_known

THUMBNAIL_PX = 112
QUALITY = 80  # of JPEG


class ImageRow(TypedDict):
    """An image of a run. `source_key`: its name in the source; `offset`: of its bytes in a tar, -1 outside; `bytes`:
    encoded; `reason`: why it is not kept; `value`: of the measure that was asked for."""

    key: str | None
    uri: str
    source_key: str
    offset: int
    bytes: int | None
    keep: bool
    reason: str | None
    value: NotRequired[float]


class Figure(TypedDict):
    """A picture with what stands below it. `picture`: a data url, None where there is none."""

    picture: str | None
    name: str
    lines: list[str]


def render(template: str, **values: object) -> str:
    """A fragment of HTML by a template of this room."""
    return render_fragment(Path(__file__).parent / template, **values)


def make_figures(rows: Sequence[ImageRow], decode: DecodeConfig) -> list[Figure]:
    """A thumbnail of each, and its verdict."""
    figures: list[Figure] = []
    for row in rows:
        verdict = "kept" if row["keep"] else str(row["reason"])
        lines = [f"{row['value']:.4g}"] if "value" in row else []
        picture = None if row["reason"] in records.FAILURES else _thumbnail(row, decode)
        figures.append({"picture": picture, "name": row["source_key"], "lines": [*lines, verdict]})
    return figures


def _thumbnail(row: ImageRow, decode: DecodeConfig) -> str | None:
    try:
        data = read_known(row["uri"], row["offset"], row["bytes"] or -1, row["key"], most=decode.max_file_bytes)
        picture: str = call_apart(f"{__name__}:shrink_here", data, decode=decode)
        return picture
    except (ImageError, InputError, StorageError):
        return None


def shrink_here(data: bytes, decode: DecodeConfig) -> str:
    """Of encoded bytes, in a process that may be lost."""
    return small_picture(decode_here(data, decode).pixels, THUMBNAIL_PX)


def small_picture(pixels: np.ndarray, longest: int) -> str:
    """uint8 HxWx3 RGB as a data url, `longest` pixels on the longer side at most."""
    return data_url(shrink(pixels, longest), "jpeg", QUALITY)


@dataclass(frozen=True)
class Sheet:
    """Some images of a run, as `Run.near` finds them: `rows`, and a sheet of thumbnails in a notebook.

    `title`: what was asked for; `note`: a sentence where nothing was found.
    """

    title: str
    rows: list[ImageRow]
    note: str
    decode: DecodeConfig

    @property
    def keys(self) -> list[str]:
        """For `Run.images`."""
        return [row["key"] for row in self.rows if row["key"] is not None]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ImageRow]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> ImageRow:
        return self.rows[index]

    def _repr_html_(self) -> str:
        return render("sheet.html.j2", title=self.title, note=self.note, figures=make_figures(self.rows, self.decode))


def say_changes(changed: Changes) -> list[tuple[str, str, str]]:
    """(setting, before, now) of each."""
    return [(name, say_value(before), say_value(now)) for name, (before, now) in changed.items()]
