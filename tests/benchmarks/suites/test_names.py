"""Names in prepared suites and adapters of strangers: none leads out of the folder that it is read from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.methods.adapters import ADAPTER_FILES, load_adapter, resolve
from benchmarks.suites.suite import load_suite
from lucidflux_data.errors import VerificationError
from lucidflux_model.samples.suites import SuiteImages

HOSTILE = ["../../outside.png", "/etc/passwd", "..", "a/b.png", "nul\0.png", "new\nline.png"]


def write_suite(folder: Path, id_: str, file: str, role: str = "lq") -> None:
    folder.mkdir(parents=True)
    images = {id_: {role: {"file": file, "sha256": "0" * 64, "width": 8, "height": 8}}}
    about = {"name": folder.name, "version": load_suite("realphoto60", None).version, "scale": 4, "images": images}
    (folder / "suite.json").write_text(json.dumps(about | {"fingerprint": "0" * 64}))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("what", ["file", "id"])
def test_a_prepared_suite_names_only_its_own_files(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "outside.png").write_bytes(b"the user's")
    write_suite(tmp_path / "suites" / "realphoto60", *(("a", name) if what == "file" else (name, "a.png")))
    with pytest.raises(VerificationError, match=r"leads out|no name of a file"):
        load_suite("realphoto60", tmp_path / "suites")
    if what == "file":
        with pytest.raises(VerificationError, match=r"leads out|no name of a file"):
            SuiteImages(str(tmp_path / "suites" / "realphoto60"))


def test_a_role_is_a_folder_of_the_suite(tmp_path: Path) -> None:
    write_suite(tmp_path / "realphoto60", "a", "outside.png", "..")
    with pytest.raises(VerificationError):
        SuiteImages(str(tmp_path / "realphoto60"))
    with pytest.raises(VerificationError):
        load_suite("realphoto60", tmp_path)


def test_the_folder_of_a_method_lies_below_out(tmp_path: Path) -> None:
    (tmp_path / "...toml").write_text((ADAPTER_FILES / "seesr.toml").read_text())
    adapter = load_adapter(str(tmp_path / "...toml"))
    for settings in ([], ["steps=../../../x"], ["steps=a\0b"]):
        method = resolve(adapter, settings)[1]
        assert "/" not in method
        assert method not in ("", ".", "..")
        assert "\0" not in method
