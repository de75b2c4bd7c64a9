"""Names from strangers as paths: `safe_name` makes one that stays, and a folder refuses one that does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidflux_data.errors import VerificationError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.names import check_file_name, safe_file, safe_name
from tests.support.hostile import PATHS


def files_of(folder: Path) -> list[str]:
    return sorted(os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_a_hostile_name_becomes_a_file_below_the_folder(tmp_path: Path, name: str) -> None:
    out = tmp_path / "a" / "b" / "out"
    for number, make in enumerate((safe_name, safe_file)):
        Folder(out).publish(f"{make(name, ['records']) if number == 0 else make(name)}.data", b"content")
    Folder(out).sweep()
    found = files_of(tmp_path)
    assert found
    assert all(place.startswith("a/b/out/") for place in found), found
    assert not (out / "records").exists()
    assert not (out / ".tmp").exists()


@given(st.text(alphabet=st.one_of(st.sampled_from("./\\\0 \n\u202e"), st.characters()), max_size=400))
def test_any_name_is_a_path_below_and_is_its_own_safe_name(name: str) -> None:
    safe = safe_name(name, ["records"])
    parts = safe.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert os.path.normpath(f"/root/{safe}") == f"/root/{safe}"
    assert "\0" not in safe
    assert max(len(part.encode()) for part in parts) <= 255
    assert parts[0].lower() not in ("records", ".tmp")
    assert safe_name(safe, ["records"]) == safe
    check_file_name(safe_file(name), "x")


@pytest.mark.parametrize(
    "name", ["a.jpg", "sub/b c.png", ".hidden/x.jpg", "v1..2.png", "été/日本.png", "a\\xff.jpg", "sub/records/x"]
)
def test_an_ordinary_name_stays(name: str) -> None:
    assert safe_name(name, ["records"]) == name


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "/etc/x", "a/..", "nul\0"])
def test_a_folder_refuses_to_be_left_by_every_door(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "x").write_bytes(b"the user's")
    folder = Folder(inside)
    doors = (
        lambda: folder.path(name),
        lambda: folder.publish(name, b"mine"),
        lambda: folder.read(name),
        lambda: folder.open(name),
        lambda: folder.exists(name),
        lambda: folder.size(name),
        lambda: folder.names(name),
        lambda: folder.folders(name),
        lambda: folder.remove(name),
        lambda: folder.move(name, "old"),
        lambda: folder.move("new", name),
        lambda: folder.read_table(name),
        lambda: Folder("memory://bucket/inside").path(name),
    )
    for door in doors:
        with pytest.raises(VerificationError, match="leads out"):
            door()
    assert (tmp_path / "x").read_bytes() == b"the user's"
