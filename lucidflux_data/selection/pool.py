"""The candidates of all parts of a run as one pool of arrays and columns, in the order that decides duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.records import KEPT
from lucidflux_data.selection.run import Part
from lucidflux_data.storage import run_folder

CARRIED = ("source_key", "sha256", "bytes", "format", "width", "height", "flags")
COLUMNS = ("key", "uri", "reason", "laplacian_variance", "flat_fraction", *CARRIED)
NO_KEY = "0" * 20
ORIGINALS = "originals.parquet"  # of a base that was stripped: `key`, its images before that


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


@dataclass(frozen=True)
class Pool:
    """The candidates of a ledger, part after part.

    `tables[i]`: COLUMNS of all of part i; `rows[i]`: int64 positions in it of the candidates that count; `leaks`: the
    measure of benchmark images in force, None where candidates are compared with none.
    """

    parts: list[Part]
    tables: list[pa.Table]
    rows: list[np.ndarray]
    arrays: Candidates
    leaks: str | None = None
    _units: dict[tuple[int, str], dict[int, pa.Table]] = field(default_factory=dict)
    _measures: dict[tuple[int, str], pa.Table | None] = field(default_factory=dict)

    def units(self, number: int, measure: str) -> dict[int, pa.Table]:
        """scores/<measure> of part `number`, a table for each unit that has a file. Each file is read once, and again
        only after `renew`."""
        place = number, measure
        if place not in self._units:
            self._units[place] = runs.read_measure(self.parts[number].folder, measure)
        return self._units[place]

    def renew(self, number: int, measure: str, units: Iterable[int]) -> None:
        """Reads the files of units of part `number` that were written since they were read."""
        folder = self.parts[number].folder
        for unit in units:
            self.units(number, measure)[unit] = runs.read_unit(folder, measure, unit)
        self._measures.pop((number, measure), None)

    def measure(self, number: int, measure: str) -> pa.Table | None:
        """All columns of scores/<measure> but uri and key, with a row for each candidate of part `number`: null where
        there is none yet. None where the measure has no file."""
        place = number, measure
        if place not in self._measures:
            units, uris = self.units(number, measure), self.tables[number]["uri"]
            try:
                self._measures[place] = _align(self.parts[number], uris, units)
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                raise InputError(_describe_kinds(f"{self.parts[number].folder}/scores/{measure}", units)) from None
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
        """bool over the pool: the candidate has a row in scores/<measure>, with a value or the reason why there is
        none."""
        there = []
        for number, part in enumerate(self.parts):
            size, uris = run_folder.unit_size(part.candidates), self.tables[number]["uri"]
            mine = np.zeros(part.candidates, bool)
            for unit, table in self.units(number, measure).items():
                own = uris.slice(unit * size, size)
                known = pc.is_in(own, table["uri"].combine_chunks().cast(own.type))
                mine[unit * size : (unit + 1) * size] = known.to_numpy()
            there.append(mine[self.rows[number]])
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
    tables, rows = [], []
    seen: list[pa.ChunkedArray] = []
    for part in parts:
        table = runs.read_basic(part.folder, COLUMNS)
        mine = np.arange(table.num_rows)
        if part.kept_by is not None:
            ledger = part.kept_by.read_table(runs.LEDGER, ["uri", "keep"])
            kept = ledger.filter(pc.field("keep"))["uri"]
            mine = mine[pc.is_in(table["uri"], kept.combine_chunks()).to_numpy()]
        for uris in seen:
            again = pc.is_in(table["uri"], uris.combine_chunks()).to_numpy()
            mine = mine[~again[mine]]
        if len(parts) > 1:
            seen.append(table["uri"])
        tables.append(table)
        rows.append(mine)
    lengths = [len(mine) for mine in rows]
    included = np.repeat([part.included for part in parts], lengths)
    deciding = [take_rows(table, mine) for table, mine in zip(tables, rows, strict=True)]
    candidates = load_candidates(pa.concat_tables(deciding), included)
    if any(part.base for part in parts):
        candidates.base = np.repeat([part.base for part in parts], lengths)
        originals = [part.folder.read_table(ORIGINALS, ["key"])["key"] for part in parts if part.base]
        keys = pa.concat_tables(deciding)["key"]
        known = pc.is_in(keys, pa.chunked_array(originals, pa.string()).combine_chunks())
        candidates.known = known.to_numpy() & ~candidates.base
    return Pool(parts, tables, rows, candidates, leaks)


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


def _align(part: Part, uris: pa.ChunkedArray, found: dict[int, pa.Table]) -> pa.Table | None:
    """The units of a measure as one table in the order of `uris`."""
    if not found:
        return None
    size = run_folder.unit_size(part.candidates)
    schema = pa.unify_schemas([table.schema for table in found.values()], promote_options="permissive")
    names = [name for name in schema.names if name not in ("uri", "key")]
    empty = schema.empty_table()
    tables = []
    for number in range(-(-part.candidates // size)):
        own = uris.slice(number * size, size).combine_chunks()
        table = pa.concat_tables([found.get(number, empty), empty], promote_options="permissive")
        rows = pc.index_in(own, table["uri"].combine_chunks().cast(own.type))
        tables.append(table.select(names).combine_chunks().take(rows))
    return pa.concat_tables(tables)


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
