"""explain, diff and what-if over a small run: every way to name an image, numbers by hand, bytes out of the shard."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import data_app
from lucidflux_data.audit.histogram import make_histogram
from lucidflux_data.errors import InputError
from lucidflux_data.pairs.config import make_pairs_config
from lucidflux_data.pairs.crop_rules import describe_other_rules
from lucidflux_data.selection.config import label, make_config
from pipelines.execution.progress import take_warnings
from tests.support.here import run_filter

SETTINGS = ("iqa.metric=niqe", "cut.top_fraction=0.5", "rules.min_side=150", "rules.min_jpeg_quality=80",
            "select.where=width < 400")  # fmt: skip


@pytest.fixture(scope="module")
def photos(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight crops, one of them twice; two blurred ones, of which one is small, too; one that is no image."""
    folder = tmp_path_factory.mktemp("looking") / "photos"
    (folder / "in").mkdir(parents=True)
    images = [cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee")]
    for number in range(8):
        image = images[number % 3]
        top, left = 20 * number % (image.shape[0] - 200), 30 * number % (image.shape[1] - 200)
        cv2.imwrite(str(folder / "in" / f"{number}.png"), image[top : top + 200, left : left + 200])
    shutil.copyfile(folder / "in" / "0.png", folder / "twin.png")
    cv2.imwrite(str(folder / "blurred.jpg"), cv2.GaussianBlur(images[0], (0, 0), 5)[:200, :200], [1, 95])
    small = cv2.GaussianBlur(images[1], (0, 0), 5)[:100, :450]
    cv2.imwrite(str(folder / "small.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 40])
    (folder / "no.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    run_filter(photos, photos.parent / "run", *SETTINGS)
    return photos.parent / "run"


def explained(run: Path, image: object) -> dict[str, Any]:
    take_warnings()  # of tests before, in this process
    done = CliRunner().invoke(data_app, ["explain", str(run), str(image), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["warnings"] == []
    (row,) = told["rows"]
    return row


def ledger(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "selected.parquet").to_pylist()


def test_an_image_is_found_by_whatever_names_it(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(row for row in ledger(run) if row["keep"] and row["source_key"] != "in/0.png")
    whole = explained(run, row["key"])
    name, tar = f"{row['key']}.png", f"{run}/shards/hq-000000.tar"
    (photos.parent / "link").symlink_to(photos)
    monkeypatch.chdir(photos)
    for named in (row["uri"], row["source_key"], f"./{row['source_key']}", photos / row["source_key"], row["sha256"],
                  f"../photos/{row['source_key']}", f"../link/{row['source_key']}", name, f"hq-000000.tar#{name}",
                  f"{tar}/{name}", f"{row['key']}.json"):  # fmt: skip
        assert explained(run, named) == whole, named


def test_the_place_in_the_shard_holds_the_very_bytes(run: Path, photos: Path) -> None:
    kept = [row for row in ledger(run) if row["keep"]]
    assert kept
    for row in kept:
        place = explained(run, row["uri"])["place"]
        with (run / "shards" / place["shard"]).open("rb") as file:
            file.seek(place["offset"])
            data = file.read(place["size"])
        assert data == (photos / row["source_key"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_every_rule_that_fails_is_told_with_its_distance(run: Path, photos: Path) -> None:
    row = explained(run, photos / "small.jpg")
    assert row["reason"] == "too_small"
    assert row["fails"] == ["min_side", "min_laplacian_variance", "where"]
    checks = {check["rule"]: check for check in row["checks"]}
    assert (checks["min_side"]["value"], checks["min_side"]["distance"]) == (100, -50)
    variance = next(each for each in ledger(run) if each["source_key"] == "small.jpg")["laplacian_variance"]
    assert checks["min_laplacian_variance"]["distance"] == pytest.approx(variance - 150)
    assert checks["max_laplacian_variance"]["passes"] is True
    assert checks["where"]["passes"] is False
    assert checks["min_jpeg_quality"]["passes"] is None, "only survivors of the cheap rules are measured so far"
    said = CliRunner().invoke(data_app, ["explain", str(run), str(photos / "small.jpg")]).stdout
    assert "rules against it: min_side, min_laplacian_variance, where" in said
    assert "limit 150, 50 outside" in said
    assert "next:    lucidflux-data what-if" in said


def test_the_rank_is_of_those_that_were_scored(run: Path) -> None:
    ranked = sorted((row for row in ledger(run) if row["rank"]), key=lambda row: row["niqe"])
    assert len(ranked) == 8
    for number, row in enumerate(ranked, 1):
        found = explained(run, row["source_key"])
        standing = found["standing"]
        assert (standing["rank"], standing["of"], standing["cut"]) == (number, 8, 4)
        assert standing["cut_score"] == ranked[3]["niqe"]
        assert standing["distance"] == pytest.approx(ranked[3]["niqe"] - row["niqe"])
        assert found["fails"] == ([] if number <= 4 else ["cut"])
        assert found["keep"] is (number <= 4)


def test_copies_name_each_other_and_what_is_no_image_says_so(run: Path, photos: Path) -> None:
    assert explained(run, photos / "twin.png")["same_bytes"] == [f"file://{photos}/in/0.png"]
    said = CliRunner().invoke(data_app, ["explain", str(run), "no.jpg"]).stdout
    assert "not kept: not_an_image" in said
    assert "min_side" not in said


def test_a_name_that_is_not_there_is_answered_with_the_nearest(run: Path) -> None:
    for wrong, near in (("3.png", "in/3.png"), ("lurred.jpg", "blurred.jpg")):
        done = CliRunner().invoke(data_app, ["explain", str(run), wrong])
        assert isinstance(done.exception, InputError)
        assert str(done.exception).endswith(f"did you mean {near}?")


def test_lists_are_objects_with_warnings(run: Path) -> None:
    told = json.loads(CliRunner().invoke(data_app, ["what-if", str(run), "--json"]).stdout)
    assert told.keys() == {"rows", "warnings"}
    assert sum(row["now"] for row in told["rows"]) >= 4


def test_lines_are_no_wider_than_the_terminal(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = next(row for row in ledger(run) if row["keep"])
    said = CliRunner().invoke(data_app, ["explain", str(run), row["key"]]).stdout
    lines = [line for line in said.splitlines() if "file://" not in line and str(run) not in line]
    assert max(map(len, lines)) <= 80
    assert os.path.basename(row["uri"]) in said


def test_a_report_shows_what_is_near_a_limit_and_says_where_nothing_is(run: Path) -> None:
    page = (run / "report.html").read_text()
    after = {part.partition("</h3>")[0]: part.partition('<div class="chart-head">')[0] for part in page.split("<h3>")}
    variances = [row["laplacian_variance"] for row in ledger(run) if row["laplacian_variance"] is not None]
    assert max(variances) < 8000 / 1.5
    told = after["Around the maximum, 8,000"]
    assert f"none within a factor of 1.5 of it; the nearest is {max(variances):.4g}" in told
    assert "<figure>" not in told
    near = [value for value in variances if 100 <= value <= 225]
    assert after.get("Around the minimum, 150", "").count("<figure>") == len(near)


def test_a_histogram_counts_each_image_once_and_is_small_for_millions() -> None:
    """Bins against numpy's own of the raw values; kept images are a part of all; lines lie at the limits."""
    drawn = np.random.default_rng(0)
    values = np.where(drawn.random(2_000_000) < 0.1, np.nan, drawn.gamma(2, 400, 2_000_000))
    table = pa.table({"laplacian_variance": values, "keep": (values > 150) & (values < 8000)})
    chart = make_histogram(table, "laplacian_variance", [("minimum", 150.0), ("maximum", 8000.0)])
    assert chart is not None
    edges = 10 ** np.array(chart["x"]) - 1
    all_, kept = (np.array(series["values"]) for series in chart["series"])
    assert all_.sum() == np.isfinite(values).sum()
    assert kept.sum() == table["keep"].to_numpy().sum()
    at = len(edges) // 2  # edges have seven digits: a few images lie on the other side of one
    inside = (values >= edges[at]) & (values < edges[at + 1])
    assert all_[at] == pytest.approx(inside.sum(), rel=1e-3)
    assert (kept <= all_).all()
    assert [10 ** mark["at"] - 1 for mark in chart["marks"]] == pytest.approx([150, 8000], rel=1e-4)
    assert len(json.dumps(chart)) < 8_000
    few = make_histogram(table.slice(0, 100), "laplacian_variance", [])
    assert few is not None
    assert len(few["x"]) == 25
    assert make_histogram(pa.table({"niqe": [None, float("inf")], "keep": [True, True]}), "niqe", []) is None


def test_the_report_names_settings_in_words(run: Path) -> None:
    page = (run / "report.html").read_text()
    title = page.split("<title>")[1].split("</title>")[0]
    kept = sum(row["keep"] for row in ledger(run))
    assert title == f"{kept} of {len(ledger(run))} images kept"
    assert "Preset lucidflux, 5 settings changed</summary>" in page
    joined = make_config(settings=["select.join=labels.parquet,more.csv", "select.near_duplicates=4"])
    told = "lucidflux (modified: select.join=labels.parquet, more.csv, select.near_duplicates=4)"
    assert label("lucidflux", joined) == told


def test_crops_say_whose_rules_they_follow(run: Path) -> None:
    crop = make_pairs_config("realesrgan-x4").degrade.crop
    assert describe_other_rules([f"file://{run}"], crop) == [], "both have the rules of the paper"
    other = crop.model_copy(update={"min_laplacian_variance": 100.0})
    (sentence,) = describe_other_rules([f"file://{run}", f"file://{run.parent}/photos"], other)
    assert sentence.endswith("--set degrade.crop.min_laplacian_variance=150 takes the run's")
    settings = ["degrade.crop.min_laplacian_variance=150"]
    assert make_pairs_config("realesrgan-x4", settings=settings).degrade.crop.min_laplacian_variance == 150


def test_diff_counts_what_came_and_went(run: Path, photos: Path, tmp_path: Path) -> None:
    run_filter(photos, tmp_path / "other", *SETTINGS, "cut.top_fraction=1")
    said = CliRunner().invoke(data_app, ["diff", str(run), str(tmp_path / "other")]).stdout
    rows = [line.split() for line in said.splitlines()]
    assert ["added", "in", "B", "4", "low_iqa", "in", "A"] in rows
    told = json.loads(CliRunner().invoke(data_app, ["diff", str(run), str(tmp_path / "other"), "--json"]).stdout)
    assert (told["added"], told["removed"]) == ({"low_iqa": 4}, {})
    assert np.isclose(told["scores"]["niqe"]["mean_first"], np.mean([r["niqe"] for r in ledger(run) if r["keep"]]))
