"""What charts.js draws: curves over steps, and bars over bins. A page has them in its data under `charts`, by id."""

from __future__ import annotations

from typing import Literal, TypedDict


class Series(TypedDict):
    """`values`: one for each x, None where there is none."""

    name: str
    values: list[float | None]


class Mark(TypedDict):
    """A line across the chart at `at`, in the units of x."""

    at: float
    text: str


class Chart(TypedDict):
    """`kind`: `lines`, or `bars`, each of which begins at its x and ends at the next (the last x is an end alone).
    `log`: x is log10(value + 1), and its axis shows values. `note` stands beside the title, `spoken` is what is read
    aloud in place of the picture; `x_title`: what x is, in a word."""

    kind: Literal["lines", "bars"]
    title: str
    note: str
    spoken: str
    x_title: str
    log: bool
    x: list[float]
    series: list[Series]
    marks: list[Mark]


def short(value: float) -> str:
    """Four significant digits, whole numbers with commas: `0.4231`, `8,000`, `1.2e-05`."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
