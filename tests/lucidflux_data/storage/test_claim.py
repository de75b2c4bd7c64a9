"""Start, resume or refuse a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, indented_json
from lucidflux_data.storage.run_folder import read_claim

UNKNOWN = "is not empty and holds no runs"


def same_seed(before: dict[str, Any]) -> bool:
    if before["seed"] != 1:
        raise ConfigError("another seed")
    return False


def test_a_new_folder_gets_the_file_and_a_resumed_one_keeps_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run")
    assert claim(folder, {"seed": 1, "at": "first"}, UNKNOWN, same_seed) is None
    sealed = hashlib.sha256(b'{"at": "first", "seed": 1}\n').hexdigest()
    written = (tmp_path / "run" / "run.json").read_text()
    assert written == f'{{"at": "first", "own_sha256": "{sealed}", "seed": 1}}\n'
    assert claim(folder, {"seed": 1, "at": "second"}, UNKNOWN, same_seed) == {"seed": 1, "at": "first"}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["at"] == "first"


def test_a_job_may_write_its_file_again_when_it_resumes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    claim(folder, {"at": "first"}, UNKNOWN, lambda _: True)
    assert claim(folder, {"at": "second"}, UNKNOWN, lambda _: True) == {"at": "first"}
    assert read_claim(folder, "run.json") == {"at": "second"}


def test_another_run_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    claim(folder, {"seed": 2}, UNKNOWN, same_seed)
    with pytest.raises(ConfigError, match="another seed"):
        claim(folder, {"seed": 1}, UNKNOWN, same_seed)
    assert read_claim(folder, "run.json") == {"seed": 2}


def test_what_others_left_is_refused_and_hidden_files_are_not(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    claim(Folder(tmp_path), {}, UNKNOWN, same_seed, name="first.json")
    (tmp_path / "first.json").rename(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match=f"^{tmp_path} {UNKNOWN}: choose another --out$"):
        claim(Folder(tmp_path), {}, UNKNOWN, same_seed)
    assert not (tmp_path / "run.json").exists()


def test_a_job_says_what_counts_as_taken_and_how_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()
    claim(
        Folder(tmp_path),
        {"b": 1, "a": 2},
        UNKNOWN,
        same_seed,
        name="m.json",
        encode=indented_json,
        taken=lambda _: False,
    )
    assert (tmp_path / "m.json").read_text() == '{\n "b": 1,\n "a": 2\n}\n'
    with pytest.raises(ConfigError, match="holds no runs"):
        claim(Folder(tmp_path / "sub" / ".."), {}, UNKNOWN, same_seed, taken=lambda _: True)


@pytest.mark.parametrize("content", [b"{", b"", canonical_json(["a", "list"])], ids=["broken off", "empty", "a list"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path}/run.json is damaged"):
        claim(Folder(tmp_path), {}, UNKNOWN, same_seed)
