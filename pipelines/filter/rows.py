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
        self.part = pool.parts[number]
        self.uris = pool.tables[number].select(["uri", "key", "sha256"])
        self.known = pool.units(number, metric)
        self.size = run_folder.unit_size(self.part.candidates)
        self.wanted = wanted
        self.position = np.full(self.part.candidates, -1)  # in `known` of its unit; -1 where there is no score yet
        for unit, table in self.known.items():
            mine = slice(unit * self.size, (unit + 1) * self.size)
            own = table["uri"].combine_chunks()
            self.position[mine] = pc.fill_null(pc.index_in(self.uris["uri"].slice(mine.start, self.size), own), -1)
        self.missing = int(np.sum(wanted & (self.position < 0)))

    def numbers(self) -> np.ndarray:
        """The units whose file lacks a wanted row."""
        return np.unique(np.flatnonzero(self.wanted & (self.position < 0)) // self.size)

    def units(self) -> Iterator[Unit[list[MeasureRow]]]:
        """A unit for each file that lacks a wanted row; it carries the rows that are there, to write them again."""
        if not self.missing:
            return
        place = run_folder.read_inventory(self.part.folder, ["offset", "size"])
        lacking = np.flatnonzero(self.wanted & (self.position < 0)) // self.size
        for number, missing in zip(*np.unique(lacking, return_counts=True), strict=True):
            start = int(number) * self.size
            rows = start + np.flatnonzero((self.wanted | (self.position >= 0))[start : start + self.size])
            payload = self.uris.take(rows).to_pylist()
            known = self.known[int(number)].to_pylist() if int(number) in self.known else []
            for row, at, where in zip(payload, self.position[rows], place.take(rows).to_pylist(), strict=True):
                row |= where | {"known": known[at] if at >= 0 else None}
            yield Unit(run_folder.unit_name(int(number)), int(missing), payload)


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
