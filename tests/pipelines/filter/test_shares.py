"""How far apart the scores of two runs are, against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit.compare import _shift
from lucidflux_data.storage.folder import Folder


@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 500), (400, 300)])
def test_the_distance_of_two_distributions_is_the_largest_gap(tmp_path: Path, first: int, second: int) -> None:
    """Rounded values, so that many are equal within and between the two."""
    rng = np.random.default_rng(first)
    values = [np.round(rng.normal(mean, 1, n), 1) for mean, n in ((0, first), (0.3, second))]
    for name, each in zip(("before", "after"), values, strict=True):
        (tmp_path / name).mkdir()
        ledger = pa.table({"score": [*each, 99.0, None], "keep": [True] * len(each) + [False, True]})
        pq.write_table(ledger, tmp_path / name / "selected.parquet")
    found = _shift(Folder(str(tmp_path / "before")), Folder(str(tmp_path / "after")), "score")
    assert found is not None
    gaps = [
        abs(sum(v <= x for v in values[0]) / first - sum(v <= x for v in values[1]) / second)
        for x in np.concatenate(values)
    ]
    assert found["ks"] == pytest.approx(max(gaps), abs=1e-12)
    assert found["mean_first"] == pytest.approx(sum(values[0]) / first, abs=1e-12)
