"""The candidates of all parts of a run as one pool of arrays and columns, in the order that decides duplicates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.records import KEPT
from lucidflux_data.selection.run import Part
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import ROWS_IN_GROUP
from lucidflux_data.storage.run_folder import unit_name, unit_size

CARRIED = ("source_key", "sha256", "bytes", "format", "width", "height", "flags")
DECIDING = ("key", "reason", "width", "height", "laplacian_variance", "flat_fraction")
NO_KEY = "0" * 20
ORIGINALS = "originals.parquet"  # of a base that was stripped: `key`, its images before that
Result = TypeVar("Result")


@dataclass
class Candidates:
    """n rows. `keys`: uint64 and uint16 of the 80-bit key. `failed`: int16 code of the failure, -1 where readable.

    `min_side` int32 pixels; the measures float64; `included`: bool, kept by hand; `base`: bool, in the published set
    that is added to, and `known`: bool, the bytes of one of them before it was stripped; None where there is none.
    """

    keys_high: np.ndarray
    keys_low: np.ndarray
    failed: np.ndarray
    min_side: np.ndarray
    laplacian_variance: np.ndarray
    flat_fraction: np.ndarray
    included: np.ndarray
    base: np.ndarray | None = None
    known: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.failed)


def split_keys(hex_keys: bytes) -> tuple[np.ndarray, np.ndarray]:
    """n concatenated 20-digit hexadecimal keys as (uint64, uint16) arrays that sort as the text does."""
    raw = np.frombuffer(bytes.fromhex(hex_keys.decode("ascii")), np.uint8).reshape(-1, 10)
    high = np.ascontiguousarray(raw[:, :8]).view(">u8").ravel().astype(np.uint64)
    low = np.ascontiguousarray(raw[:, 8:]).view(">u2").ravel().astype(np.uint16)
    return high, low


class Basic:
    """scores/basic of a part, a stretch of units at a time: the columns of 30 million rows do not fit into memory
    together. InputError for a part that is not scored to the end. Nothing is kept of what is read."""

    def __init__(self, folder: Folder, candidates: int) -> None:
        self.folder, self.candidates, self.size = folder, candidates, unit_size(candidates)
        runs.check_scored(folder, candidates)

    def __len__(self) -> int:
        return self.candidates

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """A whole column, a chunk a unit."""
        return self.read([name])[name]

    def read(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """Rows `start` to `stop` (not included). InputError where a unit has not the rows that it should."""
        stop = self.candidates if stop is None else min(stop, self.candidates)
        if start >= stop:
            return records.BASIC.empty_table().select(list(columns))
        units = range(start // self.size, (stop - 1) // self.size + 1)
        names = [f"{runs.BASIC}/{unit_name(unit)}.parquet" for unit in units]
        tables = self.folder.read_tables(names, list(columns))
        for unit, name, table in zip(units, names, tables, strict=True):
            if table.num_rows != min(self.size, self.candidates - unit * self.size):
                raise InputError(f"{self.folder.path(name)} is damaged: `lucidflux-data verify --repair` rebuilds it")
        return pa.concat_tables(tables).slice(start - units[0] * self.size, stop - start)

    def take(self, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
        """Some rows (int64, ascending), without a copy where they follow one another."""
        if not len(rows):
            return self.read(columns, 0, 0)
        first, last = int(rows[0]), int(rows[-1])
        table = self.read(columns, first, last + 1)
        return table if len(rows) == table.num_rows else table.take(rows - first)

    def stretches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, some whole units) until all were there; the next are read meanwhile."""
        step = max(1, ROWS_IN_GROUP // self.size) * self.size
        starts = range(0, self.candidates, step)
        tables = ahead(partial(self.read, columns, start, start + step) for start in starts)
        yield from zip(starts, tables, strict=True)


def ahead(calls: Iterable[Callable[[], Result]]) -> Iterator[Result]:
    """The results of `calls`, in order; one is made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for call in calls:
            following = pool.submit(call)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


@dataclass(frozen=True)
class Pool:
    """The candidates of a ledger, part after part.

    `basics[i]`: scores/basic of all of part i; `rows[i]`: int64 positions in it of the candidates that count; `leaks`:
    the measure of benchmark images in force, None where candidates are compared with none.
    """

    parts: list[Part]
    basics: list[Basic]
    rows: list[np.ndarray]
    arrays: Candidates
    leaks: str | None = None
    _measures: dict[tuple[int, str], tuple[pa.Table | None, np.ndarray]] = field(default_factory=dict)

    def renew(self, number: int, measure: str) -> None:
        """Units of part `number` were written since they were read: they are read again when they are asked for."""
        self._measures.pop((number, measure), None)

    def measure(self, number: int, measure: str) -> pa.Table | None:
        """All columns of scores/<measure> but uri and key, with a row for each candidate of part `number`: null where
        there is none yet. None where the measure has no file. Read once, and again only after `renew`."""
        return self._read(number, measure)[0]

    def has_row(self, number: int, measure: str) -> np.ndarray:
        """bool, one a candidate of part `number`: it has a row in scores/<measure>, with a value or the reason why
        there is none."""
        return self._read(number, measure)[1]

    def _read(self, number: int, measure: str) -> tuple[pa.Table | None, np.ndarray]:
        place = number, measure
        if place not in self._measures:
            self._measures[place] = _align(self.basics[number], measure)
        return self._measures[place]

    def column(self, measure: str, name: str, kind: pa.DataType) -> pa.ChunkedArray:
        """A column of scores/<measure>, a row for each candidate of the pool: null of `kind` where there is none."""
        pieces = []
        for number, part in enumerate(self.parts):
            whole = self.measure(number, measure)
            there = whole is not None and name in whole.column_names
            pieces.append(whole[name] if whole is not None and there else pa.nulls(part.candidates, kind))
        return concat_rows(self, pieces)

    def numbers(self, measure: str, name: str) -> np.ndarray:
        """float64 of a measure's column over the pool, NaN where there is none."""
        return float_column(self.column(measure, name, pa.float64()), np.nan)

    def measured(self, measure: str) -> np.ndarray:
        """bool over the pool: as of `has_row`."""
        there = [self.has_row(number, measure)[self.rows[number]] for number in range(len(self.parts))]
        return np.concatenate(there) if there else np.zeros(0, bool)

    def of_part(self, values: np.ndarray, number: int) -> np.ndarray:
        """The slice of a pool-wide array that belongs to part `number`."""
        start = sum(len(rows) for rows in self.rows[:number])
        return values[start : start + len(self.rows[number])]

    def group_keys(self, groups: np.ndarray) -> pa.Array:
        """The key of each row's group (`groups`: pool-wide rows, -1 for none) as text, null for none."""
        wanted = np.maximum(groups, 0)
        high, low = self.arrays.keys_high[wanted], self.arrays.keys_low[wanted]
        there = groups >= 0
        if not there.any():
            return pa.nulls(len(groups), pa.string())
        keys = [
            f"{first:016x}{last:04x}" if yes else None
            for first, last, yes in zip(high.tolist(), low.tolist(), there, strict=True)
        ]
        return pa.array(keys, pa.string())


def load_pool(parts: list[Part], leaks: str | None = None) -> Pool:
    """The candidates of every part. InputError where a part is not scored to the end."""
    basics, rows, found = [], [], []
    seen: list[pa.Array] = []
    for part in parts:
        basic = Basic(part.folder, part.candidates)
        counts = _find_counting(basic, part, seen)
        mine = np.arange(len(basic)) if counts is None else np.flatnonzero(counts)
        if len(parts) > 1:
            seen.append(basic["uri"].combine_chunks())
        basics.append(basic)
        rows.append(mine)
        found.append(_load_part(basic, None if len(mine) == len(basic) else counts, part.included))
    pool = Pool(parts, basics, rows, _join_candidates(found), leaks)
    if any(part.base for part in parts):
        pool.arrays.base = np.repeat([part.base for part in parts], [len(mine) for mine in rows])
        originals = [part.folder.read_table(ORIGINALS, ["key"])["key"] for part in parts if part.base]
        keys = concat_rows(pool, [basic["key"] for basic in basics])
        known = pc.is_in(keys, pa.chunked_array(originals, pa.string()).combine_chunks())
        pool.arrays.known = known.to_numpy() & ~pool.arrays.base
    return pool


def _find_counting(basic: Basic, part: Part, seen: list[pa.Array]) -> np.ndarray | None:
    """bool: the candidates of a part that the parts before it (their uris: `seen`) do not list, and that are kept where
    only such count. None where that is all of them."""
    if part.kept_by is None and not seen:
        return None
    uris, counts = basic["uri"], np.ones(len(basic), bool)
    if part.kept_by is not None:
        ledger = part.kept_by.read_table(runs.LEDGER, ["uri", "keep"])
        counts &= pc.is_in(uris, ledger.filter(pc.field("keep"))["uri"].combine_chunks()).to_numpy()
    for earlier in seen:
        counts &= ~pc.is_in(uris, earlier).to_numpy()
    return counts


def _load_part(basic: Basic, counts: np.ndarray | None, included: bool) -> Candidates:
    """The candidates of a part, or those that count, from columns that are let go of as they become arrays."""
    pieces = []
    for start, table in basic.stretches(DECIDING):
        own = table if counts is None else table.filter(pa.array(counts[start : start + table.num_rows]))
        pieces.append(load_candidates(own, np.full(own.num_rows, included)))
    if not pieces:
        return load_candidates(basic.read(DECIDING), np.zeros(0, bool))
    return _join_candidates(pieces)


def _join_candidates(pieces: list[Candidates]) -> Candidates:
    """One after the other; without `base` and `known`, which are of all of them."""
    names = [name for name in Candidates.__annotations__ if name not in ("base", "known")]
    if len(pieces) == 1:
        return pieces[0]
    return Candidates(**{name: np.concatenate([getattr(one, name) for one in pieces]) for name in names})


def concat_rows(pool: Pool, pieces: Sequence[Any]) -> pa.ChunkedArray:
    """One column over the pool from one column a part (a row for each candidate of the part)."""
    kinds = {piece.type for piece in pieces}
    kind = max(kinds, key=str) if len(kinds) > 1 else next(iter(kinds))
    chunks: list[Any] = []
    for piece, rows in zip(pieces, pool.rows, strict=True):
        taken = piece if len(rows) == len(piece) else piece.take(pa.array(rows))
        try:
            taken = taken.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kinds_found = " in one run and ".join(sorted(map(str, kinds)))
            raise InputError(f"a column holds {kinds_found} in another: they cannot be combined") from None
        chunks += taken.chunks if isinstance(taken, pa.ChunkedArray) else [taken]
    return pa.chunked_array(chunks, kind)


def _align(basic: Basic, measure: str) -> tuple[pa.Table | None, np.ndarray]:
    """(the units of a measure as one table in the order of the inventory, bool: there is a row); InputError where two
    units hold values of two kinds in one column."""
    place, there = f"scores/{measure}", np.zeros(len(basic), bool)
    names = {int(name[5:11]): f"{place}/{name}" for name in basic.folder.names(place) if name.startswith("unit-")}
    if not names:
        return None, there
    kinds: dict[int, pa.Table] = {}
    tables: list[pa.Table | int] = []  # a stretch, or how many rows one has that no unit is of
    for start, uris in basic.stretches(["uri"]):
        units = [unit for unit in range(start // basic.size, -(-(start + len(uris)) // basic.size)) if unit in names]
        found = dict(zip(units, basic.folder.read_tables(names[unit] for unit in units), strict=True))
        kinds |= {unit: table.schema.empty_table() for unit, table in found.items()}
        try:
            tables += _align_units(uris["uri"], start, basic.size, found, there)
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            raise InputError(_describe_kinds(f"{basic.folder}/{place}", kinds)) from None
    try:
        return _join_units(tables, kinds), there
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise InputError(_describe_kinds(f"{basic.folder}/{place}", kinds)) from None


def _align_units(
    uris: pa.ChunkedArray, start: int, size: int, found: dict[int, pa.Table], there: np.ndarray
) -> list[pa.Table | int]:
    """Each unit in the order of its `uris`, of which the first is candidate `start`; how many candidates it has, where
    it has no file. Notes in `there` which have a row."""
    aligned: list[pa.Table | int] = []
    for first in range(0, len(uris), size):
        own, unit = uris.slice(first, size).combine_chunks(), (start + first) // size
        if unit not in found:
            aligned.append(len(own))
            continue
        table = found[unit]
        rows = pc.index_in(own, table["uri"].combine_chunks().cast(own.type))
        there[start + first : start + first + len(own)] = pc.is_valid(rows).to_numpy(zero_copy_only=False)
        names = [name for name in table.column_names if name not in ("uri", "key")]
        aligned.append(table.select(names).combine_chunks().take(rows))
    return aligned


def _join_units(tables: list[pa.Table | int], kinds: dict[int, pa.Table]) -> pa.Table:
    schema = pa.unify_schemas([kinds[unit].schema for unit in sorted(kinds)], promote_options="permissive")
    names = [name for name in schema.names if name not in ("uri", "key")]
    empty = schema.empty_table().select(names)
    whole = [
        pa.table([pa.nulls(table, kind) for kind in empty.schema.types], schema=empty.schema)
        if isinstance(table, int)
        else pa.concat_tables([table, empty], promote_options="permissive").select(names).cast(empty.schema)
        for table in tables
    ]
    return pa.concat_tables(whole)


def _describe_kinds(place: str, units: dict[int, pa.Table]) -> str:
    """Which column of a measure is of two kinds."""
    kinds: dict[str, set[str]] = {}
    for table in units.values():
        for field_ in table.schema:
            kinds.setdefault(field_.name, set()).add(str(field_.type))
    name, found = max(kinds.items(), key=lambda entry: len(entry[1] - {"null"}))
    kinds_found = " and ".join(sorted(found - {"null"}))
    return f"{place} holds {kinds_found} in the column {name!r}: remove that folder, and score again with one kind"


def take_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """`table.take(rows)`, without a copy where the rows follow one another."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return table.slice(int(rows[0]), len(rows))
    return table.take(rows)


def load_candidates(basic: pa.Table, included: np.ndarray) -> Candidates:
    """The columns that decide, as arrays. `included`: bool, a row each."""
    high, low = split_keys(_joined(pc.fill_null(basic["key"], NO_KEY)))
    return Candidates(
        keys_high=high,
        keys_low=low,
        failed=reason_codes(basic["reason"]),
        min_side=float_column(pc.min_element_wise(basic["width"], basic["height"]), -1).astype(np.int32),
        laplacian_variance=float_column(basic["laplacian_variance"], np.nan),
        flat_fraction=float_column(basic["flat_fraction"], np.nan),
        included=included,
    )


def _joined(strings: pa.ChunkedArray) -> bytes:
    """The bytes of all strings one after the other, without a Python object for each."""
    joined = []
    for chunk in strings.chunks:
        _, ends, data = chunk.buffers()
        bounds = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        joined.append(data[int(bounds[0]) : int(bounds[-1])].to_pybytes() if len(chunk) else b"")
    return b"".join(joined)


def reason_codes(reasons: pa.ChunkedArray) -> np.ndarray:
    """int16 positions in records.REASONS, -1 for null."""
    codes: np.ndarray = pc.fill_null(pc.index_in(reasons, pa.array(records.REASONS)), KEPT).to_numpy().astype(np.int16)
    return codes


def float_column(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    values: np.ndarray = pc.fill_null(column.cast(pa.float64()), missing).to_numpy()
    return values
