"""Rows of a Parquet file read by several threads, and rows whose bytes are others when they are read again."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.images import ImageError
from lucidflux_data.sources import parquet as parquet_source
from lucidflux_data.sources.reading import read_bytes, read_known

ROWS = 600


def content(row: int) -> bytes:
    return np.random.default_rng(row).bytes(200 + row)


@pytest.fixture(scope="module", params=["bytes", "struct"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp(request.param) / "photos.parquet"
    column = [content(row) for row in range(ROWS)]
    if request.param == "struct":
        rows = pa.table({"image": [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(column)]})
    else:
        rows = pa.table({"image": pa.array(column, pa.binary())})
    pq.write_table(rows, path, row_group_size=37)
    return f"file://{path}"


@pytest.mark.parametrize("threads", [2, 4, 8])
@pytest.mark.parametrize("order", ["forward", "shuffled"])
def test_threads_get_each_row_its_own_bytes(table: str, threads: int, order: str) -> None:
    rows = list(range(ROWS))
    if order == "shuffled":
        random.Random(0).shuffle(rows)
    with ThreadPoolExecutor(threads) as pool:
        read = list(pool.map(lambda row: read_bytes(f"{table}#{row}"), rows))
    assert [data == content(row) for row, data in zip(rows, read, strict=True)] == [True] * ROWS


def test_threads_that_read_ahead_read_each_batch_once(table: str) -> None:
    cursor = parquet_source._Cursor(table)
    seeks = []
    seek, cursor._seek = cursor._seek, lambda row: (seeks.append(row), seek(row))
    with ThreadPoolExecutor(8) as pool:  # as scoring does: twice as many rows under way as there are threads
        for start in range(0, ROWS, 16):
            list(pool.map(cursor.read, range(start, min(ROWS, start + 16))))
    assert len(seeks) == 1


def test_bytes_that_are_others_now_are_a_named_failure(table: str) -> None:
    sha256 = hashlib.sha256(content(5)).hexdigest()
    for known in (sha256, sha256[:20]):
        assert read_known(f"{table}#5", sha256=known) == content(5)
        with pytest.raises(ImageError) as caught:
            read_known(f"{table}#6", sha256=known)
        assert caught.value.reason == "changed"
