"""The one check of `--max-failed`."""

from __future__ import annotations

from lucidflux_data.errors import TooManyFailed


def check_failed(failed: int, total: int, limit: float | None, what: str) -> None:
    """TooManyFailed where more than `limit` of `total` failed, as a share in 0..1; None is no limit. `what`: the images
    of the sentence and their fate, as in "of the images failed"."""
    share = failed / max(1, total)
    if limit is not None and share > limit:
        raise TooManyFailed(f"{share:.1%} {what}, more than the {limit:.1%} of --max-failed")
