"""What raters compare: a seeded, balanced draw of pairs of outputs, called by names that tell nobody the method.

    suite, methods, seed -> trials (an image, two methods) -> codes of pictures

A code is a digest of the study, the method, the id and the bytes of the file: who has the outputs finds the method of a
vote again, and a vote on another picture is on none of theirs. No key has to be kept, and the page has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.methods.copies import OutputFile
from benchmarks.methods.submission import Method
from benchmarks.suites.suite import Suite
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, InputError

FORM = 1  # of the page and of its csv; raised when a vote means something else
TRIALS = 60
BESIDE = ("nothing", "input", "reference")
NAME = re.compile(r"(\d{1,9})\.(nothing|input|reference)\.[0-9a-f]{12}")
STREAM = 7  # of the seed: other draws of this package have others


@dataclass(frozen=True)
class Picture:
    """An output that is shown."""

    code: str
    method: str
    id: str
    file: OutputFile


@dataclass(frozen=True)
class Study:
    """`trials`: pairs of codes, the smaller one first, so that no place tells the method. `repeats`: trials that a
    rater sees twice. `left_out`: why comparisons cannot be shown, and how many."""

    name: str
    beside: str
    trials: tuple[tuple[str, str], ...]
    repeats: int
    pictures: dict[str, Picture]
    left_out: dict[str, int]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted({self.pictures[code].id for trial in self.trials for code in trial}))


def name_study(suite: Suite, seed: int, beside: str) -> str:
    """`SEED.BESIDE.DIGEST`: stands in every vote, and is another one for another suite, seed or manner of asking."""
    content = [FORM, suite.label(), suite.fingerprint or "", seed, beside]
    return f"{seed}.{beside}.{digest(content)[:12]}"


def check_study(name: str, suite: Suite, place: str) -> None:
    """InputError where votes are of another suite, or of no study at all. `place`: of the vote, for the sentence."""
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{place}: {name!r:.60} is no study of `lucidflux bench vote`")
    if name != name_study(suite, int(match[1]), match[2]):
        raise InputError(f"{place}: the study {name} is over another suite than {suite.label()}, or other images of it")


def code_pictures(study: str, methods: Sequence[Method]) -> dict[str, Picture]:
    """code -> picture, of the first seed of each method (`submission.inspect` has read them)."""
    found = {}
    for method in methods:
        for id_, file in first_seed(method).items():
            if not file.reason:
                code = digest([study, method.name, id_, file.sha256])[:16]
                found[code] = Picture(code, method.name, id_, file)
    return found


def first_seed(method: Method) -> dict[str, OutputFile]:
    """The outputs that are voted on: raters see one seed of a method."""
    return next(iter(method.files.values()))


def make_study(
    suite: Suite, methods: Sequence[Method], ids: Sequence[str], seed: int, trials: int, repeat: float, beside: str
) -> Study:
    """At most `trials` comparisons: every pair of methods as often as any other, spread over the images.

    repeat: the share of the trials that a rater sees twice, at most a half. ConfigError where there is nothing to show
    beside, InputError where no two methods can be compared.
    """
    shown = {"input": suite.lq, "reference": suite.gt}
    if beside != "nothing" and any(id_ not in shown[beside] for id_ in ids):
        raise ConfigError(f"--beside {beside}: {suite.name} has not the {beside} of every image here")
    name = name_study(suite, seed, beside)
    pictures = code_pictures(name, methods)
    code_of = {(picture.method, picture.id): code for code, picture in pictures.items()}
    left_out: dict[str, int] = {}
    chosen: list[tuple[str, str]] = []
    for id_, first, second in _draw([method.name for method in methods], ids, seed):
        codes = code_of.get((first, id_)), code_of.get((second, id_))
        why = _why_not(*(pictures[code].file if code else None for code in codes))
        if why is not None:
            left_out[why] = left_out.get(why, 0) + 1
        elif len(chosen) < trials:
            chosen.append((min(map(str, codes)), max(map(str, codes))))
    if not chosen:
        whys = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))
        raise InputError(f"no two outputs can be compared: {whys or 'there is one method'}")
    used = {code for trial in chosen for code in trial}
    repeats = min(int(np.ceil(repeat * len(chosen))), len(chosen) // 2)
    return Study(name, beside, tuple(chosen), repeats, {code: pictures[code] for code in sorted(used)}, left_out)


def _draw(methods: Sequence[str], ids: Sequence[str], seed: int) -> Iterator[tuple[str, str, str]]:
    """(id, method, method) of all comparisons. Each turn has every pair once, on images that are far apart in a drawn
    order; the next turn takes the next image, so that a pair meets every image once."""
    rng = np.random.Generator(np.random.Philox(key=[seed, STREAM]))
    pairs = list(combinations(methods, 2))
    order = rng.permutation(len(ids))
    for turn in range(len(ids)):
        for k in rng.permutation(len(pairs)):
            place = (turn + int(k) * len(ids) // len(pairs)) % len(ids)
            yield ids[order[place]], *pairs[k]


def _why_not(first: OutputFile | None, second: OutputFile | None) -> str | None:
    if first is None or second is None:
        return "an output is missing or cannot be read"
    if (first.width, first.height) != (second.width, second.height):
        return "the outputs have different sizes"
    return "the outputs are the same file" if first.sha256 == second.sha256 else None


def shown_beside(study: Study, suite: Suite) -> dict[str, tuple[str, Path]]:
    """id -> (code, file) of what stands between the two outputs; {} for nothing."""
    files = {"nothing": {}, "input": suite.lq, "reference": suite.gt}[study.beside]
    return {id_: (digest([study.name, study.beside, id_])[:16], files[id_]) for id_ in study.ids if id_ in files}
