"""--max-failed: the largest share that may fail."""

from __future__ import annotations

import pytest

from lucidflux_data.errors import TooManyFailed
from pipelines.execution.failures import check_failed


@pytest.mark.parametrize(
    ("failed", "total", "limit"), [(9, 10, None), (0, 10, 0.0), (3, 10, 0.3), (0, 0, 0.0), (1, 3, 1 / 3), (10, 10, 1.0)]
)
def test_a_share_up_to_the_limit_passes(failed: int, total: int, limit: float | None) -> None:
    check_failed(failed, total, limit, "of the images failed")


def test_a_larger_share_ends_with_its_exit_code_and_both_shares() -> None:
    with pytest.raises(TooManyFailed) as error:
        check_failed(4, 10, 0.3, "of the scores are missing")
    assert str(error.value) == "40.0% of the scores are missing, more than the 30.0% of --max-failed"
    assert error.value.exit_code == 4
