"""The form in JSON of every kind of value, whatever a Parquet file holds."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid

import pyarrow as pa
import pytest

from lucidflux_data.storage.formats import canonical_json, find_unportable, make_portable, to_rows

UTC = datetime.UTC
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0, 1500)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63) - 1, "-9223372036854775809"),
        (0.1, 0.1),
        (float("nan"), None),
        (float("-inf"), None),
        (decimal.Decimal("1.10"), "1.10"),
        ("a\ud800b", "a\\ud800b"),
        (NOON, "2024-02-29T12:00:00.001500"),
        (NOON.replace(tzinfo=UTC), "2024-02-29T12:00:00.001500+00:00"),
        (NOON.date(), "2024-02-29"),
        (NOON.time(), "12:00:00.001500"),
        (datetime.timedelta(days=1, milliseconds=5), 86400.005),
        (b"\0\xff", "AP8="),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ((1, [float("nan")], {3: 2**70}), [1, [None], {"3": str(2**70)}]),
    ],
)
def test_each_kind_of_value_has_one_form(value: object, form: object) -> None:
    assert make_portable(value) == form
    assert json.loads(canonical_json(make_portable({"v": value}))) == {"v": form}


@pytest.mark.parametrize(
    ("array", "rows"),
    [
        (pa.array([1_500, None], pa.timestamp("ns")), [datetime.datetime(1970, 1, 1, 0, 0, 0, 1), None]),
        (pa.array([2_000_000_001], pa.duration("ns")), [datetime.timedelta(seconds=2)]),
        (pa.array([2**30, 1], pa.date32()), [None, datetime.date(1970, 1, 2)]),
        (pa.array([2**62, 0], pa.timestamp("us")), [None, datetime.datetime(1970, 1, 1)]),
        (pa.array([0], pa.timestamp("us", "Nowhere/X")), [None]),
        (pa.array([2**62], pa.duration("s")), [None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), [[("k", 1)]]),
    ],
)
def test_rows_of_whatever_a_file_holds(array: pa.Array, rows: list[object]) -> None:
    assert to_rows(pa.table({"v": array, "n": list(range(len(array)))})) == [
        {"v": value, "n": number} for number, value in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("kind", "odd"),
    [
        (pa.binary(), "binary"),
        (pa.large_binary(), "large_binary"),
        (pa.binary_view(), "binary_view"),
        (pa.binary(4), "fixed_size_binary[4]"),
        (pa.dictionary(pa.int32(), pa.binary()), "binary"),
        (pa.list_(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.binary()))])), "binary"),
        (pa.map_(pa.string(), pa.binary()), "binary"),
        (pa.dictionary(pa.int32(), pa.string()), None),
        (pa.list_(pa.string_view()), "string_view"),
        (pa.large_string(), None),
        (pa.decimal128(5, 2), None),
        (pa.timestamp("ns", "UTC"), None),
        (pa.list_(pa.map_(pa.string(), pa.struct([("x", pa.float16())]))), None),
        (pa.null(), None),
    ],
)
def test_what_cannot_travel_is_named_by_its_type(kind: pa.DataType, odd: str | None) -> None:
    assert find_unportable(kind) == odd
