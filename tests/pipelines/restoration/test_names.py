"""`lucidflux restore` of sources whose names lead elsewhere, or into folders of ours."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from lucidflux_data.sources.listing import list_sources
from pipelines.restoration.rows import make_work_list
from tests.pipelines.restoration.test_job import FAST, restore_here
from tests.support.hostile import PATHS

MEMBERS = ["good.png", "#..#..#outside.png", "..%2foutside.png", "a.png", "a.png/b.png", "./good.png"]
MEMBERS += [name if name.endswith(".png") else f"{name}.png" for name in PATHS if "\0" not in name]


@pytest.fixture
def picture(photo_paths) -> bytes:
    import cv2

    pixels = cv2.resize(cv2.imread(str(photo_paths[0])), (64, 64))
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_tar(path: Path, names: list[str], data: bytes) -> None:
    with tarfile.open(path, "w", errors="surrogateescape") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def everything(folder: Path) -> set[str]:
    return {os.path.relpath(os.path.join(place, file), folder) for place, _, files in os.walk(folder) for file in files}


def test_members_of_a_tar_stay_below_out(tmp_path: Path, picture: bytes) -> None:
    (tmp_path / "outside.png").write_bytes(b"the user's picture")
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    write_tar(deep / "s.tar", MEMBERS, picture)
    before = everything(tmp_path)
    done = restore_here(deep / "s.tar", "--out", deep / "out", *FAST)
    assert done.returncode == 0, done.stderr
    new = everything(tmp_path) - before
    assert all(name.startswith("one/two/out/") for name in new), new
    assert (tmp_path / "outside.png").read_bytes() == b"the user's picture"
    manifest = json.loads((deep / "out" / "manifest.json").read_text())
    assert manifest["failed"] == {}
    assert manifest["restored"] == manifest["images"] > 20
    names = [record["name"] for record in manifest["records"]]
    assert len(set(names)) == len(names)
    assert all((deep / "out" / name).is_file() for name in names)
    assert "good.png" in names
    again = restore_here(deep / "s.tar", "--out", deep / "out", *FAST)
    assert again.returncode == 0, again.stderr
    assert everything(tmp_path) - before == new


def test_a_source_may_have_folders_that_are_called_as_ours(tmp_path: Path, picture: bytes) -> None:
    source = tmp_path / "source"
    for folder in ("records", "Records", ".tmp", "sub/records", "s.tar.d"):
        (source / folder).mkdir(parents=True)
        (source / folder / "x.png").write_bytes(picture)
    (source / "a#b.png").write_bytes(picture)
    for _ in range(2):
        done = restore_here(source, "--out", tmp_path / "out", *FAST)
        assert done.returncode == 0, done.stderr
        assert {path.suffix for path in (tmp_path / "out" / "records").iterdir()} == {".json"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["restored"] == 6
    assert all((tmp_path / "out" / record["name"]).is_file() for record in manifest["records"])
    assert {"a#b.png", "sub/records/x.png", "s.tar.d/x.png"} <= {record["name"] for record in manifest["records"]}


def test_a_name_is_the_same_in_any_sample(tmp_path: Path, picture: bytes) -> None:
    write_tar(tmp_path / "s.tar", MEMBERS, picture)
    table = list_sources([str(tmp_path / "s.tar")]).table
    whole = {row["uri"]: row["name"] for row in make_work_list(table, "png")}
    assert {row["uri"]: row["name"] for row in make_work_list(table, "png", limit=4)}.items() <= whole.items()
    assert len(set(whole.values())) == len(whole)
