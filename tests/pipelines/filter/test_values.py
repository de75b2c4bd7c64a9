"""Values that stand beside an image: each has one form in JSON and in tables, and none ends a job."""

from __future__ import annotations

import datetime
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

import cli
from benchmarks.throughput.large.generated import generate_run
from lucidflux_data.config import Section
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.pairs.job import inputs_of_run
from lucidflux_data.selection.columns import TAKEN, read_join
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.selection.run import parts
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, make_portable, table_bytes
from pipelines.commands.options import check_finite
from pipelines.execution.worker import Unit
from pipelines.filter import job
from pipelines.filter.scorers import ScorerUnit
from tests.support.here import QUIET, Here, run_filter

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


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "1.5", "x", "snan", "1e-999999999"])
def test_a_fraction_that_is_none_is_a_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match="top_fraction"):
        make_config(settings=[f"cut.top_fraction={value}"])


def float_fields(kind: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from float_fields(field.annotation, f"{prefix}{name}.")
        elif field.annotation in (float, float | None):
            yield f"{prefix}{name}"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_every_setting_that_is_a_number_is_finite(value: str) -> None:
    names = list(float_fields(FilterConfig))
    assert {"rules.max_laplacian_variance", "decode.timeout_s", "workers.gpus_per_actor"} <= set(names)
    for name in names:
        with pytest.raises(ConfigError, match=name):
            make_config(settings=[f"{name}={value}"])


def number_options(app: typer.Typer) -> Iterator[tuple[str, typer.models.OptionInfo]]:
    for group in app.registered_groups:
        yield from number_options(group.typer_instance)
    for command in app.registered_commands:
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            about = getattr(hint, "__metadata__", ())
            if about and hint.__origin__ in (float, float | None):
                yield f"{command.name} {name}", about[0]


def test_every_option_that_is_a_number_is_finite() -> None:
    found = dict(entry for app in (cli.app, cli.data_app) for entry in number_options(app))
    assert set(found) >= {"filter max_failed", "plan storage_gbps", "restore guidance", "infer timeout"}
    assert [name for name, option in found.items() if option.callback is not check_finite] == []
    for value in ("nan", "inf", "-inf"):
        asked = ["filter", "photos", "--out", "run", f"--max-failed={value}"]
        done = CliRunner().invoke(cli.data_app, asked)
        assert (done.exit_code, "--max-failed" in done.output) == (2, True)


@pytest.fixture(scope="module")
def scored(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed run of three photos."""
    root = tmp_path_factory.mktemp("scored")
    for path in photo_paths[:3]:
        (root / "in").mkdir(exist_ok=True)
        shutil.copy(path, root / "in" / path.name)
    run_filter(root / "in", root / "run", "iqa.metric=none", *LOOSE)
    return root / "run"


def select_with(run: Path, tmp_path: Path, column: pa.Array, name: str = "odd", by: str = "source_key") -> Path:
    """A copy of the run, selected and packed again with a joined column carried."""
    rows = pq.read_table(run / "scores" / "basic" / "unit-000000.parquet")
    pq.write_table(pa.table({by: rows["source_key"], name: column}), tmp_path / "join.parquet")
    shutil.copytree(run, tmp_path / "run")
    settings = [f"select.join={tmp_path}/join.parquet", f"select.carry={name}", "iqa.metric=none", *LOOSE]
    config, folder = make_config(settings=settings), Folder(str(tmp_path / "run"))
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)
    return tmp_path / "run"


NOON = datetime.datetime(2024, 2, 29, 12)


@pytest.mark.parametrize(
    ("values", "forms"),
    [
        (pa.array([NOON, None, NOON], pa.timestamp("ns")), ["2024-02-29T12:00:00", None, "2024-02-29T12:00:00"]),
        (
            pa.array([1, 2**62, 3], pa.timestamp("us")),
            ["1970-01-01T00:00:00.000001", None, "1970-01-01T00:00:00.000003"],
        ),
        (pa.array([Decimal("1.00"), Decimal("-2.50"), None]), ["1.00", "-2.50", None]),
        (pa.array([2**64 - 1, 0, 1], pa.uint64()), [str(2**64 - 1), 0, 1]),
        (pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None]),
        (pa.array(["a", "b", None], pa.string_view()), ["a", "b", None]),
        (pa.array([[{"a": float("nan")}], [], None]), [[{"a": None}], [], None]),
        (pa.array([float("nan"), 0.5, float("inf")]), [None, 0.5, None]),
    ],
    ids=str,
)
def test_carried_columns_come_into_shards_and_pairs_in_their_form(
    values: pa.Array, forms: list[object], scored: Path, tmp_path: Path
) -> None:
    run = select_with(scored, tmp_path, values)
    names = pq.read_table(run / "scores" / "basic" / "unit-000000.parquet")["source_key"].to_pylist()
    wanted = {name: form for name, form in zip(names, forms, strict=True) if form is not None}
    with tarfile.open(run / "shards" / "hq-000000.tar") as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith("json")]
    found = {record["source_key"]: record.get("odd") for record in records}
    assert {name: value for name, value in found.items() if value is not None} == wanted
    inputs = inputs_of_run(Folder(str(run))).to_pylist()
    carried = {row["source_key"]: json.loads(row["carried"])["odd"] for row in inputs if row["carried"]}
    assert {name: value for name, value in carried.items() if value is not None} == wanted


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"a", b"b", None]),
        pa.array([b"a", b"b", None], pa.large_binary()),
        pa.array([b"ab", b"cd", None], pa.binary(2)),
        pa.array([b"a", b"b", None]).dictionary_encode(),
        pa.array([[{"x": b"a"}], [], None]),
    ],
    ids=lambda values: str(values.type)[:20],
)
def test_what_cannot_travel_is_refused_by_select(values: pa.Array, scored: Path, tmp_path: Path) -> None:
    before = (scored / "selected.parquet").read_bytes()
    with pytest.raises(ConfigError, match=r"'odd' of .*join.parquet cannot be used: it holds .*binary"):
        select_with(scored, tmp_path, values)
    assert (tmp_path / "run" / "selected.parquet").read_bytes() == before


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_the_ledger_are_taken(name: str, scored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"the name '{name}' is taken"):
        select_with(scored, tmp_path, pa.array([1, 2, 3]), name)
    for setting in (f"select.carry={name}", f"select.where=`{name}` > 1"):
        with pytest.raises(ConfigError, match=f"the name '{name}' is taken"):
            run_filter(scored.parent / "in", tmp_path / "new", "iqa.metric=none", setting)
    assert not (tmp_path / "new").exists(), "told before anything is listed"


@pytest.mark.parametrize("name", ["source", "clipiqa+", "a b", "a,b", 'say "x"', "detail", "status"])
def test_any_other_name_can_be_carried(name: str, scored: Path, tmp_path: Path) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    rows = pq.read_table(scored / "scores" / "basic" / "unit-000000.parquet")
    pq.write_table(pa.table({"key": rows["key"], name: ["p", "q", "r"]}), tmp_path / "join.parquet")
    shutil.copytree(scored, tmp_path / "run")
    settings = [f"select.join={tmp_path}/join.parquet", f"select.carry={quoted}", f"select.where=`{name}` != 'q'"]
    config, folder = make_config(settings=[*settings, "iqa.metric=none", *LOOSE]), Folder(str(tmp_path / "run"))
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)
    with tarfile.open(tmp_path / "run" / "shards" / "hq-000000.tar") as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith("json")]
    assert sorted(record[name] for record in records) == ["p", "r"]


@pytest.mark.parametrize("by", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_joined_file_names_images_by_any_type_of_text(by: pa.DataType, scored: Path, tmp_path: Path) -> None:
    keys = [*pq.read_table(scored / "scores" / "basic" / "unit-000000.parquet")["key"].to_pylist(), None, None]
    column = pa.array(keys).dictionary_encode() if pa.types.is_dictionary(by) else pa.array(keys, by)
    pq.write_table(pa.table({"key": column, "n": [0, 1, 2, 3, 4]}), tmp_path / "join.parquet")
    shutil.copytree(scored, tmp_path / "run")
    settings = [f"select.join={tmp_path}/join.parquet", "select.carry=n", "iqa.metric=none", *LOOSE]
    job.select(Folder(str(tmp_path / "run")), make_config(settings=settings), Here(), QUIET)
    ledger = pq.read_table(tmp_path / "run" / "selected.parquet").to_pylist()
    assert {row["key"]: row["n"] for row in ledger} == dict(zip(keys[:3], range(3), strict=True))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"uri,n\n"])
def test_a_joined_file_that_is_no_parquet_is_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"torn.parquet is damaged"):
        read_join(f"{tmp_path}/torn.parquet")


def show_value(value: object) -> str:
    """A name of a test that is the same in every process: without an address."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


class Odd:
    """Stands for an array of another library."""

    def __init__(self, values: object) -> None:
        self.values = values

    def tolist(self) -> object:
        return self.values


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": [1, "a"]}, "numbers and text in 'x'"),
        ({"x": [True, 1.5]}, "numbers and true or false in 'x'"),
        ({"x": [2**63, 1]}, "numbers and text in 'x'"),
        ({"x": [[1], [2]]}, "a list in 'x'"),
        ({"x": np.zeros((2, 3, 4))}, "a list in 'x'"),
        ({"x": [b"a", b"b"]}, "a bytes in 'x'"),
        ({"x": [{}, {}]}, "a dict in 'x'"),
        ({"x": "ab"}, "returned str for 'x'"),
        ({"x": {"a": 1, "b": 2}}, "returned dict for 'x'"),
        ({"x": {1, 2}}, "returned set for 'x'"),
        ({"x": 5}, "returned int for 'x'"),
        ({"x": np.float64(5)}, "for 'x'"),
        ({"x": Odd(3)}, "returned Odd for 'x'"),
        ({"x": [1]}, "1 values of 'x' for 2 images"),
        ({"x": [1, 2, 3]}, "3 values of 'x' for 2 images"),
        ({"rank": [1, 2]}, "a column named 'rank'"),
        ({"width": [1, 2]}, "a column named 'width'"),
        ({"clipiqa+": [1, 2]}, "a column named 'clipiqa"),
        ({5: [1, 2]}, "a column named 5"),
        ([1, 2], "a dict of columns is asked for"),
        (None, "a dict of columns is asked for"),
    ],
    ids=show_value,
)
def test_a_scorer_that_does_not_keep_its_side_is_a_sentence(columns: object, told: str, scored: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        score_two(scored, lambda images: columns)


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([float("nan"), np.float32(0.5)], [None, 0.5]),
        (np.array([1, 2], np.uint8), [1, 2]),
        ((True, None), [True, None]),
        ([np.array(3.0), 4], [3.0, 4.0]),
        (iter(["a", "\ud800"]), ["a", "\\ud800"]),
        ([None, None], [None, None]),
    ],
    ids=show_value,
)
def test_scores_of_one_kind_are_stored(values: object, stored: list[object], scored: Path) -> None:
    assert score_two(scored, lambda images: {"x": values})["x"].to_pylist() == stored


def score_two(run: Path, function: object) -> pa.Table:
    """The table that a scorer gives for two images."""
    payload = run_folder.read_inventory(Folder(str(run))).slice(0, 2).to_pylist()
    basic = pq.read_table(run / "scores" / "basic" / "unit-000000.parquet").to_pylist()
    keys = {row["uri"]: row["key"] for row in basic}
    unit = ScorerUnit(DecodeConfig(), "theirs:function", ".")
    unit._function = function
    rows = [row | {"key": keys[row["uri"]], "sha256": keys[row["uri"]], "known": None} for row in payload]
    ((_, data),) = unit(Unit("unit-000000", 2, rows))
    return pq.read_table(pa.BufferReader(data))


def test_units_of_two_kinds_are_a_sentence(tmp_path: Path) -> None:
    generate_run(Folder(tmp_path / "run"), 20)  # in three units
    pool = load_pool(parts(Folder(tmp_path / "run")))
    for unit, value in enumerate((1, "t")):
        table = pa.table({"uri": [f"file:///{unit}"], "key": ["k"], "x": [value]})
        Folder(tmp_path / "run").publish(f"scores/mine/unit-{unit:06d}.parquet", table_bytes(table))
    with pytest.raises(InputError, match="holds int64 and string in the column 'x'"):
        pool.measure(0, "mine")
