"""Metrics of an environment of their own, by real programs in a real checkout: what is a number, and what is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.metrics import outside
from benchmarks.metrics.outside_files import visualquality_r1
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.ranking import rank
from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.iqa.pins import TRUSTED, file_sha256

SCRIPT = """
import csv, random, sys
import numpy as np
from PIL import Image
listed, scores, noise = sys.argv[1], sys.argv[2], float(sys.argv[3])
random.seed(int(sys.argv[4]))
with open(listed, newline="") as rows, open(scores, "w", newline="") as out:
    sink = csv.writer(out)
    sink.writerow(("id", "value"))
    for row in csv.DictReader(rows):
        value = np.asarray(Image.open(row["path"])).mean() / 255
        if value > 0.9:
            continue  # an answer that could not be read
        if value < 0.1:
            sink.writerow((row["id"], "about 3"))
        elif noise < 0:
            sys.exit("no memory is left")
        else:
            sink.writerow((row["id"], value + random.gauss(0, noise)))
"""
LEVELS = {"a": (60, 90, 120), "b": (64, 94, 124), "holes": (10, 100, 240)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Outputs of three methods, a checkout at a commit, weights, and four metrics over one program."""
    for method, levels in LEVELS.items():
        (tmp_path / "out" / method).mkdir(parents=True)
        for number, level in enumerate(levels):
            pixels = np.full((16, 16, 3), level, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "out" / method / f"{number}.png")
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/score.py").write_text(SCRIPT)
    git = ["git", "-C", str(tmp_path / "repo"), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout[:9]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/model.bin").write_bytes(b"numbers")
    (tmp_path / "weights/config.json").write_text("{}")
    pin = file_sha256(tmp_path / "weights/model.bin")
    tables = []
    for name, noise, stochastic in (("bright", 0, False), ("steady", 1e-5, True), ("rough", 0.2, True),
                                    ("dying", -1, False)):  # fmt: skip
        (tmp_path / f"{name}.toml").write_text(
            f'about = "mean"\nrepository = "https://example.org/r"\ncommit = "{commit}"\nlicence = "MIT"\n'
            f'weights = "w"\nsha256 = ["{pin}"]\nlower_is_better = false\nrange = [-1.0, 2.0]\n'
            f"stochastic = {str(stochastic).lower()}\n"
            f'command = "{{python}} score.py {{list}} {{scores}} {noise} {{seed}}"\n'
        )
        tables.append(
            f'[{name}]\nrepo = "{tmp_path}/repo"\nweights = "{tmp_path}/weights"\npython = "{sys.executable}"\n'
            f'file = "{tmp_path}/{name}.toml"\n'
        )
    (tmp_path / "places.toml").write_text("".join(tables))
    monkeypatch.setenv(outside.PLACES, str(tmp_path / "places.toml"))
    return tmp_path


def board_of(place: Path, metrics: list[str], *methods: str) -> Any:
    folders = {name: place / "out" / name for name in methods or ("a", "b")}
    return rank(folders, metrics=metrics, cache=place / "cache", resamples=200)


def test_values_are_the_programs_and_what_it_did_not_say_is_no_number(place: Path) -> None:
    found = board_of(place, ["bright"], *LEVELS)
    scores = {(row["method"], row["id"]): row for row in found.scores().to_pylist()}
    for method in ("a", "b"):
        for number, level in enumerate(LEVELS[method]):
            assert scores[method, str(number)]["value"] == pytest.approx(level / 255)
    reasons = [scores["holes", str(number)]["reason"] for number in range(3)]
    assert reasons == ["metric_failed (no number: about 3)", None, "metric_failed (no row)"]
    rows = found.board["metrics"]["bright"]["rows"]
    assert (rows["b"]["rank"], rows["a"]["rank"], rows["holes"]["rank"], rows["holes"]["n"]) == (1, 2, None, 1)
    assert found.board["signature"].count("bright:") == 1


def test_a_value_out_of_range_or_twice_is_none() -> None:
    bounds = (1.0, 5.0)
    assert outside._value(["4.5"], bounds) == 4.5
    for cells, why in ((["7"], "7 is not within 1 to 5"), (["nan"], "nan is not"), (["3", "4"], "2 rows"),
                       ([], "no row"), (["3,5"], "no number"), (["\x1b[2J"], "no number: \\x1b[2J")):  # fmt: skip
        assert str(outside._value(cells, bounds)).startswith(why)


def test_drawn_metrics_are_ranked_only_where_draws_agree(place: Path) -> None:
    ids = [f"{number:02}" for number in range(12)]  # enough images for a difference to be significant
    for method, shift in (("a", 0), ("b", 8)):
        for number, id_ in enumerate(ids):
            pixels = np.full((16, 16, 3), 60 + 5 * number + shift, np.uint8)
            Image.fromarray(pixels).save(place / "out" / method / f"{id_}.png")
        for old in place.glob(f"out/{method}/?.png"):
            old.unlink()
    found = board_of(place, ["steady", "rough"])
    steady, rough = (found.board["metrics"][name] for name in ("steady", "rough"))
    assert (steady["ranked"], steady["rows"]["b"]["rank"]) == (True, 1)
    assert (rough["ranked"], rough["rows"]["b"]["rank"]) == (False, None)
    assert 0 < max(steady["spread"].values()) < 1e-4 < min(rough["spread"].values())
    assert "rough is drawn several times" in repr(found)
    assert "not ranked" in repr(found)
    draws = [
        sorted(row["value"] for row in outside_rows(place, f"rough-{spec(k).fingerprint('cpu')}")) for k in range(1, 6)
    ]
    assert len({tuple(draw) for draw in draws}) == 5, "five draws, each kept"
    means = sorted(row["value"] for row in found.scores().to_pylist() if row["metric"] == "rough")
    assert np.mean(means) == pytest.approx(np.mean(draws))


def spec(draw: int) -> MetricSpec:
    return MetricSpec("rough", draw=draw)


def outside_rows(place: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for file in (place / "cache" / name).iterdir() for row in pq.read_table(file).to_pylist()]


def test_what_is_not_what_was_read_is_not_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outside.fingerprint("bright", 0)
    (place / "weights/model.bin").write_bytes(b"others")
    with pytest.raises(VerificationError, match=r"bright is not run: .*model\.bin is not opened"):
        board_of(place, ["bright"])
    (place / "trusted").write_text(file_sha256(place / "weights/model.bin"))
    monkeypatch.setenv(TRUSTED, str(place / "trusted"))
    assert outside.problem("bright") is None
    assert outside.fingerprint("bright", 0) != before
    (place / "bright.toml").write_text((place / "bright.toml").read_text() + 'prompt = "how good?"\n')
    assert len({before, outside.fingerprint("bright", 0), outside.fingerprint("bright", 1)}) == 3
    (place / "repo/score.py").write_text(SCRIPT + "\n")
    assert "-dirty" in str(outside.problem("bright"))
    assert "-dirty" in board_of(place, ["niqe", "bright"]).board["not_computed"]["bright"]
    monkeypatch.delenv(outside.PLACES)
    with pytest.raises(ConfigError, match="no metric 'bright'"):
        board_of(place, ["bright"])
    shipped = {name: outside.problem(name) for name in ("deqa-score", "visualquality-r1")}
    assert all(f"the table [{name}]" in str(why) for name, why in shipped.items())
    assert outside.load_outside("visualquality-r1").stochastic


def test_a_program_that_dies_gives_no_column_and_its_words(place: Path) -> None:
    assert "no memory is left" in board_of(place, ["niqe", "dying"]).board["not_computed"]["dying"]


@pytest.mark.parametrize(("rows", "limit"), [(0, 0.5), (1, 5)])
def test_a_program_that_does_not_end_is_stopped_and_what_it_wrote_counts(place: Path, rows: int, limit: float) -> None:
    (place / "repo/endless.py").write_text(
        "import csv, itertools, sys, time\n"
        "with open(sys.argv[1], newline='') as listed, open(sys.argv[2], 'w', newline='') as out:\n"
        "    for row in itertools.islice(csv.DictReader(listed), int(sys.argv[3])):\n"
        "        csv.writer(out).writerow((row['id'], 0.25))\n"
        "    out.flush()\n"
        "    time.sleep(600)\n"
    )
    command = f'command = "{{python}} endless.py {{list}} {{scores}} {rows}"\n'
    text = (place / "bright.toml").read_text()
    (place / "bright.toml").write_text(text[: text.index("command = ")] + command)
    places = (place / "places.toml").read_text()
    (place / "places.toml").write_text(places.replace("[bright]\n", f"[bright]\ntimeout_s = {limit}\n"))
    images = {str(number): str(place / f"out/a/{number}.png") for number in range(3)}
    stopped = f"was stopped after {limit:g} s (timeout_s in LUCIDFLUX_METRICS)"
    if not rows:
        with pytest.raises(ConfigError, match=re.escape(f"bright {stopped} and gave no score: it printed nothing")):
            outside.run_outside("bright", images, 0)
        return
    assert outside.run_outside("bright", images, 0) == {"0": 0.25, **dict.fromkeys("12", f"no row: it {stopped}")}


def test_answers_without_a_number_are_none_and_the_prompt_is_the_readmes() -> None:
    read = visualquality_r1.read_answer
    assert (read("<answer>4.21</answer>"), read("x <answer> 3 </answer>"), read(" 2.5 ")) == ("4.21", "3", "2.5")
    assert [read(text) for text in ("", "good", "<answer>good</answer>", "3 or 4", "<answer>3 of 5</answer>")] == [
        None
    ] * 5
    readme = '```\nPROMPT = (\n    "Rate "\n    "it."\n)\n\nQUESTION_TEMPLATE = "{Question} One score."\n```\n'
    assert visualquality_r1.read_prompt(readme) == "Rate it. One score."
    with pytest.raises(SystemExit):
        visualquality_r1.read_prompt("nothing")


def test_the_plan_counts_draws(place: Path, bench_here: Any) -> None:
    asked = ["--outputs", place / "out/a", place / "out/b", "--metrics", "bright,rough", "--dry-run", "--json"]
    done = bench_here(*asked, "--cache", place / "cache")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == {"bright": {"cached": 0, "to_score": 6},
                                                  "rough": {"cached": 0, "to_score": 30}}  # fmt: skip
