"""Values that stand beside an image: each has one form in JSON and in tables, and none ends a job."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import ConfigError
from lucidflux_data.selection.config import make_config
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, make_portable
from tests.support.here import run_filter

LOOSE = ("rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e9", "rules.max_flat_fraction=1")


@pytest.mark.parametrize(
    ("text", "found", "kind"),
    [
        ("NaN", None, "double"),
        ("Infinity", None, "double"),
        ("-Infinity", None, "double"),
        ("18446744073709551615", "18446744073709551615", "string"),
        ("-9223372036854775809", "-9223372036854775809", "string"),
        ("1e999", None, "double"),
        ('"\\ud800"', "\\ud800", "string"),
        ("[NaN, 1]", [None, 1], None),
    ],
)
def test_odd_values_are_packed_and_carried(text: str, found: object, kind: str | None, photo_paths, tmp_path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number, side in enumerate((f'{{"value": {text}, "plain": 0.25}}', '{"value": 0.5}')):
            for name, data in (
                (photo_paths[number].suffix[1:], photo_paths[number].read_bytes()),
                ("json", side.encode()),
            ):
                info = tarfile.TarInfo(f"{number}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    run_filter(tmp_path / "s.tar", tmp_path / "run", "iqa.metric=none", "select.carry=value,plain", *LOOSE)
    ledger = Folder(str(tmp_path / "run")).read_table("selected.parquet").sort_by("source_key")
    if kind == "double":
        assert ledger["value"].to_pylist() == [None, 0.5]
        assert pa.types.is_float64(ledger["value"].type)
    with tarfile.open(tmp_path / "run" / "shards" / "hq-000000.tar") as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith("json")]
    sides = {record["source_key"]: record["side"]["value"] for record in records}
    assert sides["0" + photo_paths[0].suffix] == found
    assert sides["1" + photo_paths[1].suffix] == 0.5


def test_a_table_keeps_its_column_a_number(photo_paths: list[Path], tmp_path: Path) -> None:
    images = pa.array([path.read_bytes() for path in photo_paths[:3]], pa.binary())
    table = pa.table({"image": images, "similarity": [0.3, float("nan"), float("inf")]})
    pq.write_table(table, tmp_path / "00000.parquet")
    sides = [json.loads(row["side"] or "{}") for row in list_sources([str(tmp_path)]).table.to_pylist()]
    assert [side.get("similarity") for side in sides] == [0.3, None, None]


def test_portable_values_are_json() -> None:
    odd = {"a": float("nan"), "b": [2**70, {"c": "\ud800", "d": (1, float("-inf"))}], "\udfff": None, "e": True}
    assert json.loads(canonical_json(make_portable(odd))) == {
        "a": None,
        "b": [str(2**70), {"c": "\\ud800", "d": [1, None]}],
        "\\udfff": None,
        "e": True,
    }


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "1.5", "x", "snan"])
def test_a_fraction_that_is_none_is_a_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match="top_fraction"):
        make_config(settings=[f"cut.top_fraction={value}"])
