"""Units that people read, the rules that a selection prints, what clears them; plan takes what filter takes."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import data_app
from lucidflux_data.errors import ConfigError
from pipelines.commands import telling
from pipelines.commands.filter import filter_command
from pipelines.commands.runs import plan_command
from pipelines.execution import human
from tests.support.commands import parse
from tests.support.here import select_into


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_950, "100 kB"), (3_870_720, "3.87 MB"), (2.73e12, "2.73 TB"),
     (999_600, "1.00 MB"), (5e18, "5000 PB")],
)  # fmt: skip
def test_bytes(value: float, text: str) -> None:
    assert human.human_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.004, "0.004 s"), (7.2, "7.2 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"),
     (3 * 3600 + 299, "3 h 05 min"), (50 * 3600, "2 d 2 h")],
)  # fmt: skip
def test_seconds(value: float, text: str) -> None:
    assert human.human_seconds(value) == text


def test_a_name_tells_the_unit() -> None:
    assert telling.say_value("bytes_in", 2_730_000_000_000) == "2.73 TB"
    assert telling.say_value("wall_hours", 1.5) == "1 h 30 min"
    assert telling.say_value("predicted", {"kept": 12345, "bytes_out": 2000}) == "kept 12,345, bytes_out 2.00 kB"
    assert telling.say_value("slowest_unit_s", 12.0) == "12 s"
    assert telling.say_value("failed", {"too_many_bytes": 3, "missing": 1200}) == "too_many_bytes 3, missing 1,200"


def test_the_last_column_wraps_and_nothing_is_cut(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = [f"word{number}" for number in range(40)]
    telling.say_table([["short", "1", " ".join(words)], ["a longer name", "1,000", ""]], right=(1,))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split() == ["short", "1", *words, "a", "longer", "name", "1,000"]
    assert lines[-1] == "a longer name  1,000"


@pytest.fixture(scope="module")
def run(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telling")
    (folder / "photos").mkdir()
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "chelsea")))
    for number in range(4):
        cv2.imwrite(str(folder / "photos" / f"{number}.png"), image[: 200 + number, :200])
    table = pa.table({"key": ["0" * 20], "aesthetic": [1.0]})
    pq.write_table(table, folder / "labels.parquet")
    settings = (f"select.join={folder}/labels.parquet", "select.where=height > 201", "iqa.metric=none")
    return select_into(folder / "photos", folder / "run", *settings)


def told(*args: object) -> dict[str, Any]:
    done = CliRunner().invoke(data_app, [*map(str, args), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_selection_prints_the_rules_and_what_changed(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run, mine)
    args = ["select", str(mine), "--min-side", "150", "--executor", "local"]
    said = CliRunner().invoke(data_app, [*args, "--dry-run"]).stdout
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "rules.min_side 150 0 in the run before" in rows
    assert "rules.min_laplacian_variance 150" in rows
    assert "select.where height > 201" in rows
    assert not any(row.startswith("cut.") for row in rows), "without a metric there is no cut"
    found = told(*args, "--dry-run")
    assert found["changed"] == {"rules.min_side": [0, 150]}
    assert found["rules"]["rules.min_side"] == 150
    assert told(*args)["changed"] == {"rules.min_side": [0, 150]}
    again = CliRunner().invoke(data_app, args).stdout
    assert "nothing changed from the run before" in again
    assert f"next:    lucidflux-data pack {mine}" in again


@pytest.mark.parametrize(
    ("option", "setting"),
    [(["--where", ""], "select.where"), (["--join", "none"], "select.join"), (["--join", ""], "select.join")],
)  # fmt: skip
def test_what_a_run_has_is_taken_back(option: list[str], setting: str, run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run, mine)
    before = told("select", mine, "--executor", "local")
    assert setting in before["rules"]
    after = told("select", mine, *option, "--executor", "local")
    assert setting not in after["rules"]
    config = json.loads((mine / "run.json").read_text())["config"]["select"]
    assert not config[setting.removeprefix("select.")]
    assert (before["kept"], after["kept"]) == ((2, 4) if option[0] == "--where" else (2, 2))


def test_none_beside_a_file_is_refused(run: Path) -> None:
    done = CliRunner().invoke(data_app, ["select", str(run), "--join", "none", "--join", "x.parquet"])
    assert isinstance(done.exception, ConfigError)
    assert "--join none takes back" in str(done.exception)


def test_plan_takes_what_decides_a_filter_run() -> None:
    """The others say where it runs, or are of the run itself."""
    elsewhere = {"address", "executor", "max_failed", "dry_run"}
    assert (
        set(inspect.signature(filter_command).parameters) - set(inspect.signature(plan_command).parameters) == elsewhere
    )


def test_a_plan_says_what_it_cannot_predict(run: Path) -> None:
    photos = run.parent / "photos"
    args = ["--iqa", "none", "--min-side", "202", "--where", "width > 3", "--num-cpus", "1", "--limit", "2"]
    found = told("plan", photos, *args)
    assert found["not_predicted"] == ["select.where"]
    assert found["candidates"] == 2
    assert found["probe"]["too_small"][0] == 1, "all are 200 wide"


@pytest.mark.parametrize(
    ("typed", "verb", "other", "then"),
    [
        ("lucidflux cache 'my pairs' --model tiny --set a=b --num-cpus 2 --executor local --json", "train",
         {"data": "my pairs", "out": "RUN", "num_cpus": None, "set_": ["a=b", "data.cached=latent"], "json_": None},
         "lucidflux train --data 'my pairs' --out RUN --model tiny --set a=b --set data.cached=latent"),
        ("lucidflux restore 'a b' c.png -o out --model tiny --tile 0 --dry-run", None, {"dry_run": None},
         "lucidflux restore 'a b' c.png --out out --model tiny --tile 0"),
        ("lucidflux bench compare 'a b:c' d --resamples 200 --json", None, {"json_": None},
         "lucidflux bench compare 'a b:c' d --resamples 200"),
        ("lucidflux train --data a --data 'b c' -o run --resume --num-cpus 2 --wait 3.5", None, {},
         "lucidflux train --data a --data 'b c' --out run --resume --num-cpus 2 --wait 3.5"),
    ],
)  # fmt: skip
def test_a_command_is_said_again_as_a_shell_takes_it(typed: str, verb: str | None, other: dict, then: str) -> None:
    said = telling.again(parse(typed), verb, **other)
    assert said == then
    parse(said)
