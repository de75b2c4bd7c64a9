"""Where the toolkit and the tools beside it keep what can be made again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suites.suite import suites_folder
from lucidflux_data.iqa.weight_files import hf_folder, own_folders, snapshot
from lucidflux_data.measures.fingerprints import known_suites
from lucidflux_data.storage.cache import own_cache
from pipelines.commands.bench import score_cache


@pytest.mark.parametrize(("given", "home"), [("/a/b", "/a/b"), ("rel", "rel"), (None, "/h/.cache"), ("", "/h/.cache")])
def test_every_cache_is_below_the_users_cache(given: str | None, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LUCIDFLUX_SUITES", "LUCIDFLUX_WEIGHTS", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    if given is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    own = Path(home, "lucidflux")
    assert own_cache() == own
    assert (suites_folder(), known_suites(), score_cache()) == (own / "suites", own / "fingerprints", own / "scores")
    assert own_folders()[:3] == [own, Path(home, "clip"), Path(home, "torch/hub/clip")]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "$HOME/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"},
    ],
)
def test_the_hub_cache_is_where_its_library_has_it(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/h"} | given).items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert str(hf_folder()) == done.stdout.strip()


def test_a_repository_of_the_hub_cache_is_found_as_by_its_library(tmp_path: Path) -> None:
    """Two revisions, of which `main` names one; then a `main` whose files are gone."""
    hub = pytest.importorskip("huggingface_hub")
    repository = tmp_path / "models--a--b"
    for revision in ("1" * 40, "2" * 40):
        (repository / "snapshots" / revision).mkdir(parents=True)
        (repository / "snapshots" / revision / "config.json").write_text(revision)
    assert snapshot(repository) is None
    assert hub.try_to_load_from_cache("a/b", "config.json", cache_dir=tmp_path) is None
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("2" * 40)
    found = hub.try_to_load_from_cache("a/b", "config.json", cache_dir=tmp_path)
    assert snapshot(repository) == Path(found).parent == repository / "snapshots" / ("2" * 40)
    (repository / "refs" / "main").write_text("3" * 40)
    assert snapshot(repository) is None
    assert hub.try_to_load_from_cache("a/b", "config.json", cache_dir=tmp_path) is None
