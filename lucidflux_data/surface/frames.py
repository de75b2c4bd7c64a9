"""A table as the kind of frame that a notebook works with."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lucidflux_data.errors import ConfigError, suggest

KINDS = ("pyarrow", "pandas", "polars")


def as_frame(table: pa.Table, kind: str) -> Any:
    """`table` as a pyarrow.Table, a pandas.DataFrame or a polars.DataFrame. ConfigError for another kind, and where the
    library is not installed."""
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of table {kind!r}: {suggest(kind, KINDS)}")
    if kind == "pyarrow":
        return table
    try:
        if kind == "pandas":
            import pandas  # noqa: F401  # pyarrow would say it in another way

            return table.to_pandas()
        import polars

        return polars.from_arrow(table)
    except ImportError:
        raise ConfigError(f"{kind} is not installed: pip install {kind}") from None
