"""Runs, pairs, metrics and caches name the decoders that they were made with; a run of decoder 1 is gone on with where
its pixels are those of now, and measured again where they are not."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lucidflux_data.audit.decoders import affected_kinds, check_decoder
from lucidflux_data.audit.report import make_report
from lucidflux_data.codecs import version
from lucidflux_data.errors import ConfigError
from lucidflux_data.selection import records
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.storage.folder import Folder
from pipelines.execution.preflight import preflight, versions
from pipelines.execution.worker import Unit
from pipelines.filter import job
from pipelines.filter.repair import measure_outdated, verify_run
from tests.support.here import QUIET, Here, run_filter
from tests.support.paths import DATA
from tests.support.run_files import rewrite_run

ALL = ("rules.min_side=8", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e12")
ALL += ("rules.max_flat_fraction=1", "cut.top_fraction=1")
CASES = ("gif_frame_in_canvas.gif", "png_2_grey_trns.png", "tiff_rgbx16.tif", "png_16_rgba.png", "webp_exif6.webp")
AFFECTED = {  # by decoder: what it saw otherwise
    1: {"gif_frame_in_canvas.gif": "gif", "png_2_grey_trns.png": "png", "tiff_rgbx16.tif": "tiff"},
    2: {"tiff_rgbx16.tif": "tiff", "moves.webp": "webp", "profile.bmp": "bmp"},
    3: {"tiff_rgbx16.tif": "tiff"},
}
AFFECTED[1] |= {"png_16_rgba.png": "png", "moves.webp": "webp", "profile.bmp": "bmp"}
COUNTS = {1: "1 bmp, 1 gif, 2 png, 1 tiff, 1 webp", 2: "1 bmp, 1 tiff, 1 webp", 3: "1 tiff"}
LOCAL = ("--executor", "local", "--num-cpus", 1)


@pytest.fixture(scope="module")
def made(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `photos` of formats that decoder 1 saw otherwise, and others, and a run over it."""
    base = tmp_path_factory.mktemp("decoders")
    (base / "photos").mkdir()
    for name in CASES:
        shutil.copy(DATA / "cases" / "images" / name, base / "photos")
    for path in photo_paths[:3]:
        image = cv2.imread(str(path))[:160, :160]
        cv2.imwrite(str(base / "photos" / f"{path.stem}.jpg"), image)
        cv2.imwrite(str(base / "photos" / f"{path.stem}.png"), np.ascontiguousarray(image[::-1]))
    first, second = (Image.fromarray(cv2.imread(str(path))[:96, :96]) for path in photo_paths[3:5])
    first.save(base / "photos" / "moves.webp", save_all=True, append_images=[second], lossless=True)
    second.rotate(90).save(base / "photos" / "profile.bmp")
    run_filter(base / "photos", base / "run", *ALL, "iqa.metric=none", "select.near_duplicates=1")
    return base


def about(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def by_decoder(number: int, run: Path, source: Path) -> Path:
    """The run as an earlier decoder left it: other numbers of what it saw otherwise, and, of decoder 1, no word of
    decoders in run.json."""
    shutil.copytree(source, run)
    told = about(run)
    del told["decoder_version"], told["decoders"]
    if number > 1:
        told |= {"decoder_version": number, "decoders": {"pillow": "10.0"}}
    rewrite_run(run, told)
    for file in sorted((run / "scores" / "basic").iterdir()):
        rows = pq.read_table(file).to_pylist()
        others = [row for row in rows if row["source_key"] in AFFECTED[number]]
        for row in others:
            row["laplacian_variance"] = 4711.0
        if others:
            pq.write_table(pa.Table.from_pylist(rows, records.BASIC), file)
    return run


def results(run: Path) -> dict[str, bytes]:
    kept = ("inventory", "scores", "selected", "shards")
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name.startswith(kept)}


def select_and_pack(run: Path) -> None:
    config = FilterConfig.model_validate(about(run)["config"])
    job.select(Folder(run), config, Here(), QUIET)
    job.pack(Folder(run), config, Here(), QUIET)


def test_run_json_names_the_decoders(made: Path) -> None:
    told = about(made / "run")
    assert told["decoder_version"] == version.DECODER_VERSION == 4
    assert told["decoders"].keys() == {"imagecodecs", "opencv", "pillow", "pillow_heif", "tifffile"}
    assert told["decoders"]["opencv"].startswith(cv2.__version__)


@pytest.mark.parametrize("number", AFFECTED)
def test_what_an_earlier_decoder_may_have_seen_otherwise(number: int, made: Path, tmp_path: Path) -> None:
    run = by_decoder(number, tmp_path / "run", made / "run")
    names = pq.read_table(run / "inventory.parquet")["source_key"].to_pylist()
    found = dict(zip(names, affected_kinds(Folder(run)), strict=True))
    assert found == {name: AFFECTED[number].get(name, "") for name in names}
    for file in (run / "scores" / "basic").iterdir():
        file.unlink()
    found = dict(zip(names, affected_kinds(Folder(run)), strict=True))
    by_suffix = {name: kind for name, kind in AFFECTED[number].items() if kind not in ("png", "webp")}
    assert found == {name: by_suffix.get(name, "") for name in names}, "nothing was measured: only the suffix is known"


@pytest.mark.parametrize("number", AFFECTED)
def test_commands_on_a_run_of_an_earlier_decoder(number: int, made: Path, tmp_path: Path, data_command) -> None:
    run = by_decoder(number, tmp_path / "run", made / "run")
    rules = [word for setting in (*ALL, "iqa.metric=none", "select.near_duplicates=1") for word in ("--set", setting)]
    before = results(run)
    for command in (
        ("filter", made / "photos", "--out", run, *rules, *LOCAL),
        ("score", made / "photos", "--out", run, *rules, *LOCAL),
        ("score", run, "--scorer", "math:sqrt", *LOCAL),
        ("retry", run, "--status", "unreadable", *LOCAL),
    ):
        done = data_command(*command)
        assert done.returncode == 2, done.stderr
        assert f"made by decoder {number}" in done.stderr
        assert f"other pixels of {COUNTS[number]} of its candidates" in done.stderr
        assert f"`lucidflux-data retry {run} --outdated`" in done.stderr
        assert results(run) == before
    select_and_pack(run)
    assert make_report(Folder(run))
    told = verify_run(Folder(run), True, False, Here(), QUIET)["warnings"][0]
    assert f"`lucidflux-data retry {run} --outdated`" in told
    assert about(run).get("decoder_version", 1) == number, "nothing of that made it one of now"
    done = data_command("retry", run, "--outdated", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert f"tried: {len(AFFECTED[number])}" in done.stdout
    assert about(run)["decoder_version"] == version.DECODER_VERSION
    again = data_command("filter", made / "photos", "--out", run, *rules, *LOCAL)
    assert again.returncode == 0, again.stderr
    select_and_pack(run)
    assert results(run) == results(made / "run")


def test_scores_of_those_candidates_are_dropped_and_a_kill_is_repeated(made: Path, tmp_path: Path, monkeypatch) -> None:
    run = by_decoder(1, tmp_path / "run", made / "run")
    folder = Folder(run)
    place = run / "scores" / "history"
    before = sum(pq.read_table(file).num_rows for file in place.iterdir())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.filter.repair._drop_rows", killed)
        with pytest.raises(KeyboardInterrupt):
            measure_outdated(folder, Here(), QUIET)
    with pytest.raises(ConfigError, match="made by decoder 1"):
        check_decoder(folder)
    assert measure_outdated(folder, Here(), QUIET) == {"tried": 6, "scores_dropped": 6}
    check_decoder(folder)
    assert sum(pq.read_table(file).num_rows for file in place.iterdir()) == before - 6
    assert verify_run(folder, False, False, Here(), QUIET)["warnings"] == []
    assert measure_outdated(folder, Here(), QUIET) == {"tried": 0, "scores_dropped": 0}


def test_other_bytes_are_not_measured_in_the_place_of_those_of_before(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "photos", tmp_path / "photos")
    run_filter(tmp_path / "photos", tmp_path / "all", *ALL, "iqa.metric=none")
    run = by_decoder(1, tmp_path / "run", tmp_path / "all")
    shutil.copy(DATA / "cases" / "images" / "tiff_rgb.tif", tmp_path / "photos" / "tiff_rgbx16.tif")
    measure_outdated(Folder(run), Here(), QUIET)
    rows = [row for file in sorted((run / "scores" / "basic").iterdir()) for row in pq.read_table(file).to_pylist()]
    told = {row["source_key"]: (row["status"], row["reason"]) for row in rows}
    assert told.pop("tiff_rgbx16.tif") == ("failed", "changed")
    assert set(told.values()) == {("ok", None)}


@pytest.mark.parametrize("number", AFFECTED)
def test_a_jpeg_run_goes_on(number: int, made: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for path in (made / "photos").glob("*.jpg"):
        shutil.copy(path, tmp_path / "photos")
    run_filter(tmp_path / "photos", tmp_path / "all", *ALL, "iqa.metric=none")
    run = by_decoder(number, tmp_path / "run", tmp_path / "all")
    check_decoder(Folder(run))
    (unrecorded,) = verify_run(Folder(run), True, False, Here(), QUIET)["warnings"]
    assert "not recorded before this version" in unrecorded


def test_a_run_of_newer_decoders_is_not_added_to(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    rewrite_run(run, about(run) | {"decoder_version": 5})
    with pytest.raises(ConfigError, match="measured by decoder 5, newer than the 4"):
        check_decoder(Folder(run))


def test_nodes_name_their_decoders(monkeypatch) -> None:
    mine = versions()
    assert mine["decoder"] == "4"
    assert {"imagecodecs", "tifffile", "pillow-heif", "pillow", "opencv-python-headless"} <= mine.keys()
    monkeypatch.setattr(version, "DECODER_VERSION", 1)
    assert versions()["decoder"] == "1"


class OtherNodes(Here):
    """Nodes on which `changes` are installed; else as this machine."""

    def __init__(self, patch: pytest.MonkeyPatch, *changes: tuple[object, str, object]) -> None:
        self.patch, self.changes = patch, changes

    def each_node(self, job: Any) -> list[Any]:
        with self.patch.context() as patched:
            for where, name, value in self.changes:
                patched.setattr(where, name, value)
            return [job(Unit("node", 0, None))]


def test_nodes_whose_decoders_differ_are_refused(made: Path, tmp_path: Path, monkeypatch) -> None:
    installed = importlib.metadata.version

    def older(package: str) -> str:
        return "0.0.1" if package == "tifffile" else installed(package)

    where = ([f"file://{made}/photos"], Folder(tmp_path / "run"), "none", QUIET)
    preflight(OtherNodes(monkeypatch), *where)
    with pytest.raises(ConfigError, match=r"node .* has decoder 2, the driver 4"):
        preflight(OtherNodes(monkeypatch, (version, "DECODER_VERSION", 2)), *where)
    with pytest.raises(ConfigError, match=r"node .* has tifffile 0\.0\.1, the driver 20"):
        preflight(OtherNodes(monkeypatch, (importlib.metadata, "version", older)), *where)
