"""Tiles of a run: the same bytes however it was run, rules on them, and pairs that are cut out of good ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.images import decode, luma
from lucidflux_data.iqa.metrics import load_metric
from lucidflux_data.measures import artifacts
from lucidflux_data.measures.blur_and_flat import measure_luma
from lucidflux_data.pairs.samples import find_sample
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.storage.folder import Folder
from pipelines.execution.local import LocalExecutor
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from tests.support.here import QUIET, Here, run_filter, run_synthesize, verified
from tests.support.killing import killed_after

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=3"]
SHARP = "laplacian_variance > 100"
PAIRS = ["degrade.size=96", "variants=3", "degrade.crop.tries=1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Nine cuts of 300 px: of half of them the right half is out of focus, one is so all over; and no image."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    folder.mkdir()
    photo = cv2.imread(str(next(path for path in photo_paths if path.stem == "coffee")))
    for number in range(9):
        cut = photo[10 * number :][:300, 20 * number :][:, :300].copy()
        if number % 2 or number == 8:
            soft = cv2.GaussianBlur(cut, (0, 0), 6)
            cut[:, 150 if number % 2 else 0 :] = soft[:, 150 if number % 2 else 0 :]
        cv2.imwrite(str(folder / f"{number}.png"), cut)
    (folder / "none.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiled") / "run"
    run_filter(photos, place, *ALL, "measures.tiles=100", f"select.where_tile={SHARP}", "select.min_good_tiles=0.3")
    return place


def tree(place: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("events/", ".lease"))}


def select(place: Path, *settings: str) -> None:
    config = make_config(settings=settings, base=FilterConfig.model_validate(runs.read_run(Folder(place))["config"]))
    job.select(Folder(place), config, Here(), QUIET)


def test_the_tiles_of_a_run_are_plain_measures_of_crops(run: Path, photos: Path) -> None:
    rows = pq.read_table(run / "tiles" / "basic").to_pylist()
    assert len(rows) == 9 * 9, "3x3 tiles of each of nine images, none of what is no image"
    for row in rows[::4]:
        grey = luma(decode((photos / row["uri"].rpartition("/")[2]).read_bytes()))
        crop = grey[row["y"] : row["y"] + 100, row["x"] : row["x"] + 100].copy()
        plain = measure_luma(crop)
        assert (row["laplacian_variance"], row["flat_fraction"]) == (plain.laplacian_variance, plain.flat_fraction)
        assert row["blockiness"] == artifacts.blockiness(crop)
        assert row["spectral_cutoff"] == artifacts.spectral_cutoff(crop)


def test_the_share_of_good_tiles_decides(run: Path) -> None:
    tiles = pq.read_table(run / "tiles" / "basic").to_pylist()
    for row in runs.read_ledger(Folder(run)).to_pylist():
        good = [t for t in tiles if t["uri"] == row["uri"] and t["laplacian_variance"] > 100]
        if row["key"] is None or row["reason"] == "not_an_image":
            continue
        enough = len(good) > 0 and len(good) >= 0.3 * 9
        assert row["reason"] == (None if enough else "too_few_good_tiles")
        expected = [[t["x"], t["y"], t["width"], t["height"]] for t in good] if enough else None
        assert (json.loads(row["good_tiles"]) if row["good_tiles"] else None) == expected
    counts = json.loads(json.dumps(job.summary(Folder(run))))
    assert counts["rejected"] == {"too_few_good_tiles": 1}


def test_without_tiles_no_byte_changes(photos: Path, tmp_path: Path) -> None:
    run_filter(photos, tmp_path / "plain", *ALL)
    run_filter(photos, tmp_path / "tiled", *ALL, "measures.tiles=128")
    plain, tiled = tree(tmp_path / "plain"), tree(tmp_path / "tiled")
    assert {name for name in tiled if name not in plain} == {name for name in tiled if name.startswith("tiles/")}
    others = [name for name in plain if name.startswith(("scores/", "inventory", "selected", "shards/hq-000000.tar"))]
    assert all(plain[name] == tiled[name] for name in others)
    assert b"tile" not in plain["run.json"]


def test_workers_and_kills_change_no_byte(run: Path, photos: Path, tmp_path: Path, monkeypatch) -> None:
    settings = [*ALL, "measures.tiles=100", f"select.where_tile={SHARP}", "select.min_good_tiles=0.3"]
    quiet = {name: data for name, data in tree(run).items() if name.startswith(("tiles/", "scores/", "shards/"))}
    for number in (3, 4):
        place = tmp_path / f"killed-{number}"
        with killed_after(monkeypatch, number):
            run_filter(photos, place, *settings)
        run_filter(photos, place, *settings)
        assert {name: data for name, data in tree(place).items() if name in quiet or name.startswith("tiles/")} == quiet
    config, place = make_config(settings=settings), Folder(tmp_path / "two")
    executor = LocalExecutor(2)
    try:
        job.list_into(place, [f"file://{photos}"], config, "lucidflux", None, ("score",), QUIET)
        job.score(place, config, executor, QUIET)
    finally:
        executor.close()
    found = tree(tmp_path / "two")
    assert {name: data for name, data in found.items() if name.startswith("tiles/")} == {
        name: data for name, data in quiet.items() if name.startswith("tiles/")
    }


def test_verify_covers_the_files_of_tiles(run: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(run, tmp_path / "run"))
    unit = place / "tiles" / "basic" / "unit-000000.parquet"
    whole = tree(run)
    lacking = pq.read_table(unit)
    pq.write_table(lacking.slice(1), unit)
    with pytest.raises(VerificationError, match=r"tiles/basic/unit-000000\.parquet is damaged"):
        verified(place)
    unit.unlink()
    with pytest.raises(VerificationError, match=r"tiles/basic/unit-000000\.parquet is damaged"):
        verified(place)
    verify_run(Folder(place), False, True, Here(), QUIET)
    assert {name: data for name, data in tree(place).items() if name.startswith("tiles/")} == {
        name: data for name, data in whole.items() if name.startswith("tiles/")
    }


def test_the_metric_scores_tiles_in_the_same_decode(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    niqe = [setting for setting in ALL if "metric" not in setting] + ["iqa.metric=niqe", "cut.top_fraction=1"]
    run_filter(photos, place, *niqe, "measures.tiles=200", "rules.min_laplacian_variance=400")
    rows = pq.read_table(place / "tiles" / "niqe").to_pylist()
    scored = pq.read_table(place / "scores" / "niqe").to_pylist()
    assert len(rows) == 4 * len(scored)
    score = load_metric("niqe")
    for row in rows[::7]:
        pixels = decode((photos / row["uri"].rpartition("/")[2]).read_bytes())
        crop = np.ascontiguousarray(pixels[row["y"] : row["y"] + 200, row["x"] : row["x"] + 200])
        assert row["niqe"] == pytest.approx(next(iter(score([crop]))))
    before = (place / "tiles" / "niqe" / "unit-000000.parquet").read_bytes()
    select(place, "rules.min_laplacian_variance=0", "select.where_tile=niqe < 1000")
    after = pq.read_table(place / "tiles" / "niqe").to_pylist()
    assert len(after) == 4 * 9
    assert [row for row in after if row["uri"] in {row["uri"] for row in rows}] == rows
    assert before != (place / "tiles" / "niqe" / "unit-000000.parquet").read_bytes()
    assert all(row["good_tiles"] for row in runs.read_ledger(Folder(place)).to_pylist() if row["keep"])


@pytest.mark.parametrize("hq", ["png", "ref"])
def test_crops_of_pairs_lie_in_good_tiles(hq: str, run: Path, tmp_path: Path, data_command) -> None:
    made = run_synthesize(run, tmp_path / "pairs", *PAIRS, f"hq={hq}")
    good = {
        row["key"]: json.loads(row["good_tiles"]) for row in runs.read_ledger(Folder(run)).to_pylist() if row["keep"]
    }
    assert made["samples"] == 3 * len(good)
    assert verified(tmp_path / "pairs") == made["samples"]
    for key, tiles in good.items():
        covered = np.zeros((300, 300), bool)
        for left, top, width, height in tiles:
            covered[top : top + height, left : left + width] = True
        for variant in range(3):
            record = json.loads(find_sample(Folder(tmp_path / "pairs"), f"{key}_{variant:02d}")["json"])
            left, top, width, height = record["cut"]["box"]
            assert covered[top : top + height, left : left + width].all()
    key = sorted(good)[0]
    replayed = data_command("replay", tmp_path / "pairs", f"{key}_00", "--out", tmp_path / "replayed")
    assert replayed.returncode == 0, replayed.stderr


def test_pairs_on_line_are_those_of_the_shards(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from lucidflux_data import RealESRGANPairs

    run_synthesize(run, tmp_path / "pairs", *PAIRS)
    settings = {"size": 96, "crop": {"tries": 1}}
    for source in (run, run / "shards"):  # the ledger, or the json beside each image
        pairs = RealESRGANPairs(source, settings=settings)
        for item in (pairs[0], pairs[len(pairs) - 1]):
            stored = find_sample(Folder(tmp_path / "pairs"), f"{item['key']}_00")
            assert np.array_equal(decode(stored["hq.png"]), item["hq"].numpy().transpose(1, 2, 0))
            assert np.array_equal(decode(stored["lq.png"]), item["lq"].numpy().transpose(1, 2, 0))


def test_what_has_no_room_for_a_crop_gives_none(run: Path, tmp_path: Path) -> None:
    made = run_synthesize(run, tmp_path / "pairs", *PAIRS[1:], "degrade.size=288")
    assert made["rejected"]["too_few_good_tiles"] == 4
    assert made["used"] == made["candidates"] - 4


def test_a_rule_on_what_tiles_do_not_have_is_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(ConfigError, match="--where-tile has no column 'laplacian'"):
        select(place, "select.where_tile=laplacian > 3")
    run_filter(photos, tmp_path / "plain", *ALL)
    with pytest.raises(ConfigError, match="--where-tile needs tiles"):
        select(tmp_path / "plain", f"select.where_tile={SHARP}")
    with pytest.raises((ConfigError, InputError)):
        make_config(settings=["measures.tiles=32"])


def test_the_commands(photos: Path, tmp_path: Path, data_command) -> None:
    local = ["--executor", "local", "--num-cpus", "1"]
    done = data_command("score", photos, "--out", tmp_path / "run", "--tiles", 100, "--iqa", "none", *local)
    assert done.returncode == 0, done.stderr
    loose = ["--set", "rules.min_laplacian_variance=0", "--set", "rules.max_flat_fraction=1", "--json"]
    tiles = ["--where-tile", SHARP, "--min-good-tiles", 0.3]
    told = data_command("select", tmp_path / "run", *tiles, *loose, *local)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rejected"] == {"too_few_good_tiles": 1}
    page = data_command("explore", tmp_path / "run")
    assert (page.returncode, "select.where_tile" in page.stderr) == (3, True)
