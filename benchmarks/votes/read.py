"""The csv that raters save, read as what strangers sent: refused in one sentence, or counted, never guessed."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.methods.submission import Method
from benchmarks.suites.suite import Suite
from benchmarks.votes.study import check_study, code_pictures
from lucidflux_data.errors import InputError
from lucidflux_data.storage.regular import open_regular, read_whole

COLUMNS = ["study", "rater", "repeat", "left", "right", "choice", "seconds"]
LONGEST_NAME = 40


@dataclass(frozen=True)
class Vote:
    """One answer. `repeat`: the second time that this rater saw this pair. `left_won`: the side that was chosen."""

    rater: str
    id: str
    winner: str
    loser: str
    repeat: bool
    left_won: bool


@dataclass(frozen=True)
class Votes:
    """All answers of a study, by rater, image and pair. `unknown`: votes on pictures that are none of the outputs;
    `twice`: equal ones that were in a second file."""

    study: str
    rows: tuple[Vote, ...]
    unknown: int = 0
    twice: int = 0


@dataclass(frozen=True)
class _Row:
    place: str  # FILE, line N
    study: str
    rater: str
    repeat: bool
    left: str
    right: str
    choice: str

    @property
    def key(self) -> tuple[str, bool, str, str]:
        return self.rater, self.repeat, min(self.left, self.right), max(self.left, self.right)

    @property
    def answer(self) -> tuple[str, str]:
        """The code of the picture that was chosen, and its side."""
        return (self.left if self.choice == "left" else self.right), self.choice


def read_votes(files: Sequence[Path], suite: Suite, methods: Sequence[Method]) -> Votes:
    """The votes of files on the outputs of these methods (`submission.inspect` has read them).

    InputError for a file that is none of vote.html, another suite's study, two studies, one rater who answers the same
    question in two ways, and where no vote is on any of the outputs.
    """
    seen: dict[tuple[str, bool, str, str], _Row] = {}
    twice = 0
    study = ""
    for row in (row for file in files for row in _read(file)):
        if row.study != study:
            check_study(row.study, suite, row.place)
            if study:
                raise InputError(
                    f"{row.place}: votes of two studies, {study} and {row.study}, are not counted together"
                )
            study = row.study
        before = seen.setdefault(row.key, row)
        if before is not row:
            if before.answer != row.answer:
                raise InputError(
                    f"{row.place}: {row.rater} answered this comparison otherwise in {before.place}: "
                    "two raters of one name, or two tries of one rater"
                )
            twice += 1
    pictures = code_pictures(study, methods)
    found = []
    for row in seen.values():
        left, right = pictures.get(row.left), pictures.get(row.right)
        if left is None or right is None:
            continue
        if left.id != right.id or left.method == right.method:
            raise InputError(f"{row.place}: it compares {left.method} of {left.id} with {right.method} of {right.id}")
        winner, loser = (left, right) if row.choice == "left" else (right, left)
        found.append(Vote(row.rater, left.id, winner.method, loser.method, row.repeat, row.choice == "left"))
    if not found:
        named = ", ".join(map(str, files[:3]))
        raise InputError(f"{named}: none of the {len(seen)} votes is on these outputs: files or names are others now")
    found.sort(key=lambda vote: (vote.rater, vote.id, sorted((vote.winner, vote.loser)), vote.repeat))
    return Votes(study, tuple(found), len(seen) - len(found), twice)


def _read(file: Path) -> Iterator[_Row]:
    lines = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    try:
        if next(lines, None) != COLUMNS:
            raise InputError(f"{file} does not begin with the columns {','.join(COLUMNS)}: is it saved by vote.html?")
        for cells in lines:
            place = f"{file}, line {lines.line_num}"
            if len(cells) != len(COLUMNS):
                raise InputError(f"{place} has {len(cells)} cells, not {len(COLUMNS)}")
            yield _row(place, *cells)
    except csv.Error as error:
        raise InputError(f"{file}, line {lines.line_num} is no csv: {error}") from None


def _text(file: Path) -> str:
    try:
        with open_regular(file) as opened:
            return read_whole(opened, str(file)).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--votes {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--votes {file} is not UTF-8 text") from None


def _row(place: str, study: str, rater: str, repeat: str, left: str, right: str, choice: str, seconds: str) -> _Row:
    rater = unicodedata.normalize("NFC", rater)
    if not _is_name(rater):
        raise InputError(
            f"{place}: {rater!r:.60} is no name of a rater (letters, digits, spaces, dots, dashes, at most 40)"
        )
    if repeat not in ("0", "1"):
        raise InputError(f"{place}: repeat is 0 or 1, not {repeat!r:.60}")
    if choice not in ("left", "right"):
        raise InputError(f"{place}: choice is left or right, not {choice!r:.60}")
    if left == right:
        raise InputError(f"{place}: left and right are the same picture")
    try:
        if not 0 <= float(seconds) < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(f"{place}: seconds is a number from 0, not {seconds!r:.60}") from None
    return _Row(place, study, rater, repeat == "1", left, right, choice)


def _is_name(text: str) -> bool:
    """As NAME of vote.js."""
    return 0 < len(text) <= LONGEST_NAME and text[0].isalnum() and all(c.isalnum() or c in " ._-" for c in text)
