"""The counts of a ledger that does not agree with itself."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lucidflux_data.errors import VerificationError
from lucidflux_data.selection import ledger


@pytest.mark.parametrize(
    ("keep", "reason"), [(False, None), (True, "blur"), (False, "of a stranger\x1b[2J"), (None, None)]
)
def test_a_row_whose_reason_and_decision_differ_is_damage(keep: bool | None, reason: str | None) -> None:
    rows = pa.table({"keep": pa.array([True, keep], pa.bool_()), "reason": pa.array([None, reason], pa.string())})
    with pytest.raises(VerificationError, match=r"selected\.parquet is damaged"):
        ledger.counts(rows)
    assert ledger.counts(rows.slice(0, 1))["kept"] == 1
