"""The tables of a run and the words in them: schemas, reasons and their order.

`scores/basic` has every candidate once, in inventory order; `selected` (the decision ledger) has every candidate of
all runs once. No table holds a time, a worker, a library's error text or a path other than the candidate's own uri.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa

VERSION = "0.6.0"  # of this code; run.json keeps that of the code which listed the candidates

# Reasons for which an image could not be scored at all, by what happened.
FAILURES = (
    "unreadable",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "too_many_bytes",
    "too_many_pixels",
    "unsupported_mode",
    "out_of_memory",
    "decode_timeout",
    "missing",
    "not_allowed",
    "changed",
    "iqa_out_of_memory",
    "iqa_not_finite",
)
# Reasons for which a readable image is not kept. One image has one reason: the first that applies, failures before.
REJECTIONS = (
    "opted_out",
    "benchmark_leak",
    "duplicate",
    "too_small",
    "too_blurry",
    "too_sharp",
    "too_flat",
    "jpeg_artifacts",
    "upscaled",
    "soft",
    "where_not_met",
    "too_few_good_tiles",
    "low_iqa",
    "near_duplicate",
    "semantic_duplicate",
    "over_quota",
    "unbalanced",
)
INCLUDED = "included"  # kept by hand, beside the rules
BASE = "in_base"  # kept: it is in the published set that is added to
# Since 0.5; behind the others, whose codes pages of before know.
LATER = ("too_few_good_tiles", "semantic_duplicate", "over_quota", "unbalanced")
REASONS = (*FAILURES, *(word for word in REJECTIONS if word not in LATER), INCLUDED, BASE, *LATER)
KEPT = -1  # the code of an image that no rule rejects
CODE = {reason: code for code, reason in enumerate(REASONS)}

WHAT_IT_MEANS = {
    "unreadable": "the bytes could not be read, or the picture data in them are damaged",
    "not_an_image": "no image format recognises the bytes",
    "unsupported_format": "an image format that is not read; the detail names it",
    "out_of_memory": "decoding needs more memory than there is",
    "truncated": "the file ends before the picture does",
    "too_many_bytes": "a larger file than is read (decode.max_file_bytes)",
    "too_many_pixels": "more pixels than the pixel budget",
    "unsupported_mode": "a depth or coding that is not read, as floating point samples or 12-bit JPEG",
    "decode_timeout": "decoding did not end within the time limit",
    "missing": "the file is listed but not there (a dangling link)",
    "not_allowed": "a table names it, outside the source and --allow-uris, or in a private network",
    "changed": "other bytes than those that were measured before",
    "iqa_out_of_memory": "the quality metric ran out of memory on this image alone",
    "iqa_not_finite": "the quality metric gave no finite number",
    "opted_out": "on an opt-out list",
    "benchmark_leak": "an image of a benchmark",
    "duplicate": "the same bytes as an earlier candidate",
    "too_small": "shorter side under the minimum",
    "too_blurry": "variance of the Laplacian under the minimum",
    "too_sharp": "variance of the Laplacian over the maximum",
    "too_flat": "too large a share of flat patches",
    "jpeg_artifacts": "compressed too strongly, now or before",
    "upscaled": "has detail in too small a part of its frequency range",
    "soft": "too little sharpness at a fixed size, noise not counted",
    "where_not_met": "the --where expression is not true of it",
    "too_few_good_tiles": "too small a share of good tiles, or no crop of the size inside them",
    "low_iqa": "below the cut of the quality metric",
    "near_duplicate": "looks like a better candidate",
    "semantic_duplicate": "shows what a better candidate shows, by its vector",
    "over_quota": "more of one value than --quota lets in",
    "unbalanced": "more of one cluster than --balance lets in",
    "included": "kept by hand",
    "in_base": "kept: in the published set that is added to",
}


BASIC = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),  # pixels, upright
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("flags", pa.string()),  # sorted names joined by a comma
        pa.field("laplacian_variance", pa.float64()),
        pa.field("flat_fraction", pa.float64()),
        pa.field("status", pa.string(), nullable=False),  # ok | failed
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


class LedgerRow(TypedDict):
    """A row of selected.parquet: a candidate and what was decided of it. There is a column of the metric beside these,
    and the columns that --where and --carry name.

    `key`: null where nothing could be read; `keep`, and the `reason` why not; `rank`: among those that were scored, 1
    is the best; `group`: key of the first of its near-duplicates; `bytes`: encoded; `width`, `height`: pixels, upright;
    `flags`: sorted names joined by a comma; `offset`: of the bytes in a tar, -1 outside tars; `side`: the json beside
    it; `leak`: the benchmark image that it shows, where suites are forbidden.
    """

    uri: str
    key: str | None
    keep: bool
    reason: str | None
    rank: int | None
    group: str | None
    laplacian_variance: float | None
    flat_fraction: float | None
    source_key: str
    sha256: str | None
    bytes: int | None
    format: str | None
    width: int | None
    height: int | None
    flags: str | None
    offset: int
    side: str | None
    leak: NotRequired[str | None]


def measure_schema(measure: str) -> pa.Schema:
    """`scores/<measure>`: the rows asked for so far; `reason` is a failure of this measure on this image."""
    return pa.schema(
        [
            pa.field("uri", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            pa.field(measure, pa.float64()),
            pa.field("reason", pa.string()),
        ]
    )


def is_kept(codes: np.ndarray) -> np.ndarray:
    kept: np.ndarray = (codes == KEPT) | (codes == CODE[INCLUDED]) | (codes == CODE[BASE])
    return kept
