"""A row whose bytes change between the measures and the metric is a named failure, never another picture's score."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.pairs.dataset import RealESRGANPairs
from lucidflux_data.selection.config import make_config
from lucidflux_data.sources import parquet as parquet_source
from lucidflux_data.storage.folder import Folder, absolute_url
from pipelines.filter import job
from pipelines.filter.score import score_basic
from tests.support.here import QUIET, Here


@pytest.mark.parametrize("threads", [0, 4])
def test_a_changed_row_is_named(threads: int, photo_paths: list[Path], tmp_path: Path) -> None:
    photos = [path.read_bytes() for path in photo_paths[:6]]
    table = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": pa.array(photos, pa.binary())}), table)
    rules = ("rules.min_laplacian_variance=0", "rules.max_flat_fraction=1", "cut.top_fraction=1")
    config = make_config("demo", settings=(*rules, f"workers.decode_threads={threads}"))
    folder = Folder(str(tmp_path / "run"))
    source = [absolute_url(str(table))]
    job.list_into(folder, source, config, "demo", None, ("score", "select", "pack"), QUIET)
    score_basic(folder, config, Here(), QUIET)
    parquet_source._cursor.cache_clear()  # the next phase may be another process
    photos[1], photos[2] = photos[2], photos[1]
    pq.write_table(pa.table({"image": pa.array(photos, pa.binary())}), table)
    job.select(folder, config, Here(), QUIET)
    ledger = folder.read_table("selected.parquet").to_pylist()
    changed = {row["uri"].rpartition("#")[2] for row in ledger if row["reason"] == "changed"}
    measured = {row["uri"].rpartition("#")[2] for row in ledger if row["niqe"] is not None}
    assert changed == {"1", "2"}
    assert measured == {"0", "3", "4", "5"}


def test_pairs_on_line_are_never_of_another_picture(photo_paths: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(photo_paths[:2]):
        (tmp_path / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    pairs = RealESRGANPairs(str(tmp_path), "realesrgan-x4", 0, settings=["size=128"])
    assert len(pairs) == 2
    assert pairs[0]["hq"].shape[0] == 3
    first = Path(pairs.rows[0]["uri"].removeprefix("file://"))
    other = Path(pairs.rows[1]["uri"].removeprefix("file://"))
    first.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="has changed"):
        pairs[0]
