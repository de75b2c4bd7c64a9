"""A suite that is prepared again, struck after each of its steps: it is whole, and its prompts are there."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.suites import prepare as preparing
from benchmarks.suites import suite as suites
from benchmarks.suites.prepare import prepare
from lucidflux_data.errors import FolderBusy
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from tests.support.killing import killed_after
from tests.support.scenarios import tree

IDS = ("first", "second")


@pytest.fixture
def wanted() -> suites.Suite:
    return replace(suites.load_suite("realset65", None), count=2, ids=None, layout={"lq": ["lq"]}, pins={})


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "archive" / "lq").mkdir(parents=True)
    (tmp_path / "prompts").mkdir()
    lines = ""
    for number, id_ in enumerate(IDS):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "archive" / "lq" / f"{id_}.png")
        (tmp_path / "prompts" / f"{id_}.txt").write_text(f"photo {number}")
        lines += f"{id_} {hashlib.sha256(f'photo {number}'.encode()).hexdigest()}\n"
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "prompts" / "prompts.toml").write_text(f'captioner = "a"\nrevision = "1"\nsha256 = "{sha256}"\n')
    return tmp_path / "archive"


def test_killed_after_each_step_nothing_is_lost_and_nothing_left(wanted, archive: Path, monkeypatch) -> None:
    """The prompts are in the suite alone: a repeat without --prompts must find them."""
    place = archive.parent / "suites" / "realset65"
    prepare(wanted, archive, place, archive.parent / "prompts")
    quiet = tree(place.parent)
    with killed_after(monkeypatch, 10**6) as steps:
        prepare(wanted, archive, place)
    assert len(steps) > 8
    assert {"move realset65"} < set(steps)
    for number in range(1, len(steps) + 1):
        with monkeypatch.context() as patch, killed_after(monkeypatch, number):
            patch.setattr(preparing, "_put_back", lambda _: None)  # what a killed process does not come to
            prepare(wanted, archive, place)
        assert prepare(wanted, archive, place)["prompts"] == len(IDS)
        assert tree(place.parent) == quiet, steps[number - 1]
        assert {path.name for path in place.parent.iterdir()} == {"realset65"}, steps[number - 1]


def test_of_two_preparations_the_second_waits_or_says_so(wanted, archive: Path) -> None:
    place = archive.parent / "suites" / "realset65"
    here, go = threading.Event(), threading.Event()

    def other() -> None:
        with hold(Folder(place.parent), 0.0, new=True):
            here.set()
            go.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    here.wait(60)
    with pytest.raises(FolderBusy, match="is being written by"):
        prepare(wanted, archive, place)
    assert not place.exists()
    threading.Timer(0.5, go.set).start()
    assert prepare(wanted, archive, place, wait_s=60.0)["images"] == len(IDS)
    thread.join()
