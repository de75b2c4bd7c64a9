"""Units of work over rows of a run: which are there, which are wanted, and what is written for each."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs.memory import within_memory
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError, decode
from lucidflux_data.selection.pool import Pool
from lucidflux_data.selection.run import read_unit
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.formats import checked_bytes
from pipelines.execution.counting import count_done
from pipelines.execution.worker import File, Unit

Columns = dict[str, float | int | str | None]  # a row of a table: values by column


class MeasureRow(TypedDict):
    """A candidate of which a measure is wanted, or written again."""

    uri: str
    key: str
    sha256: str  # of the bytes that were scored, or 20 digits of it: the key, but for images that were packed anew
    offset: int  # of the bytes inside a tar; -1 outside tars
    size: int  # encoded bytes; -1 where the listing does not tell
    known: Columns | None  # the row that is there already


HEAD = [pa.field("uri", pa.string(), nullable=False), pa.field("key", pa.string(), nullable=False)]
REASON = pa.field("reason", pa.string())


class MetricTable:
    """scores/<metric> of a part: which `wanted` rows (bool, one a candidate) are there, and the units to write."""

    def __init__(self, pool: Pool, number: int, metric: str, wanted: np.ndarray) -> None:
        self.part, self.metric, self.basic = pool.parts[number], metric, pool.basics[number]
        self.size = self.basic.size
        self.wanted, self.there = wanted, pool.has_row(number, metric)
        self.missing = int(np.sum(wanted & ~self.there))

    def units(self) -> Iterator[Unit[list[MeasureRow]]]:
        """A unit for each file that lacks a wanted row; it carries the rows that are there, to write them again."""
        if not self.missing:
            return
        place = run_folder.read_inventory(self.part.folder, ["offset", "size"])
        lacking = np.flatnonzero(self.wanted & ~self.there) // self.size
        for number, missing in zip(*np.unique(lacking, return_counts=True), strict=True):
            start = int(number) * self.size
            mine = slice(start, start + self.size)
            own = np.flatnonzero((self.wanted | self.there)[mine])
            uris = self.basic.read(["uri", "key", "sha256"], start, start + self.size).take(own)
            known, at = self._read_known(int(number), uris["uri"], bool(self.there[mine].any()))
            payload = uris.to_pylist()
            for row, position, where in zip(payload, at, place.take(start + own).to_pylist(), strict=True):
                row |= where | {"known": None if position is None else known[position]}
            yield Unit(run_folder.unit_name(int(number)), int(missing), payload)

    def _read_known(self, number: int, uris: pa.ChunkedArray, is_there: bool) -> tuple[list[Columns], list[int | None]]:
        """(the rows of a unit, the position among them of each uri, None where it has no row)."""
        if not is_there:
            return [], [None] * len(uris)
        table = read_unit(self.part.folder, self.metric, number)
        return table.to_pylist(), pc.index_in(uris, table["uri"].combine_chunks()).to_pylist()


class _Rows(abc.ABC):
    """A job whose rows are computed one by one. Subclasses have `measure`, `schema`, `limits` and `row`."""

    measure: str
    schema: pa.Schema
    limits: DecodeConfig

    def __call__(self, unit: Unit[list[MeasureRow]]) -> Iterator[File]:
        rows = [row["known"] or self._row(row) for row in unit.payload]
        table = pa.Table.from_pylist(rows, self.schema)
        yield f"scores/{self.measure}/{unit.name}.parquet", checked_bytes(table)

    def _row(self, row: MeasureRow) -> Columns:
        record: Columns = {"uri": row["uri"], "key": row["key"]}
        try:
            data = read_known(row["uri"], row["offset"], row["size"], row["sha256"], most=self.limits.max_file_bytes)
            with within_memory():
                return record | self.row(data, decode(data, self.limits.max_pixels))
        except ImageError as error:
            return record | {"reason": error.reason}
        finally:
            count_done()

    @abc.abstractmethod
    def row(self, data: bytes, pixels: np.ndarray) -> Columns:
        """The columns of one image, from its encoded bytes and its uint8 HxWx3 pixels."""
