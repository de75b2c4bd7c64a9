"""What is known of one image of a run, as a list of its candidates and as a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict, overload

from lucidflux_data.audit.explain import Check, ExplainedImage, Standing
from lucidflux_data.escapes import show
from lucidflux_data.selection.records import WHAT_IT_MEANS
from lucidflux_data.surface.shown import render


class _Shown(TypedDict):
    """An image in words. `rows`: rule, whether it passes, value, limit, distance inside it."""

    name: str
    verdict: str
    rows: list[list[str]]
    standing: str
    place: str


class Explained(Sequence[ExplainedImage]):
    """The candidates that a name meant, mostly one, each as `lucidflux-data explain --json` has it."""

    def __init__(self, images: Sequence[ExplainedImage]) -> None:
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ExplainedImage]:
        return iter(self._images)

    @overload
    def __getitem__(self, index: int) -> ExplainedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExplainedImage]: ...
    def __getitem__(self, index: int | slice) -> ExplainedImage | list[ExplainedImage]:
        return self._images[index]

    def __repr__(self) -> str:
        return "\n".join(f"{show(image['row']['uri'])}: {_verdict(image)}" for image in self._images)

    def _repr_html_(self) -> str:
        return render("explained.html.j2", images=[_shown(image) for image in self._images])


def _verdict(image: ExplainedImage) -> str:
    reason = image["row"]["reason"]
    verdict = "kept" if image["row"]["keep"] else f"not kept: {reason}"
    verdict += f" ({WHAT_IT_MEANS[reason]})" if reason else ""
    return verdict + (f"; rules against it: {', '.join(image['fails'])}" if len(image["fails"]) > 1 else "")


def _shown(image: ExplainedImage) -> _Shown:
    place = image["place"]
    return {
        "name": image["row"]["uri"],
        "verdict": _verdict(image),
        "rows": [_row(check) for check in image["checks"]],
        "standing": _standing(image["standing"]) if image["standing"] else "",
        "place": f"{place['member']} of {place['shard']}, {place['size']:,} bytes" if place else "",
    }


def _row(check: Check) -> list[str]:
    mark = {True: "ok", False: "fails", None: "not known"}[check["passes"]]
    limit = check["limit"] if isinstance(check["limit"], str) else f"{check['limit']:g}"
    numbers = ["" if number is None else f"{number:.6g}" for number in (check["value"], check["distance"])]
    return [check["rule"], mark, numbers[0], limit, numbers[1]]


def _standing(standing: Standing) -> str:
    cut = f"the cut keeps {standing['cut']:,} of {standing['of']:,}"
    if standing["score"] is None or standing["rank"] is None:
        return f"{standing['metric']}: no score; {cut}"
    return f"{standing['metric']} {standing['score']:.6g}, rank {standing['rank']:,} of {standing['of']:,}; {cut}"
