"""The script that measures what a new user waits for: its commands are README's; a page that is not ready is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.throughput import first_minutes
from lucidflux_data.errors import InputError
from tests.support import chromium, doc_blocks
from tests.support.paths import ROOT


def test_the_commands_are_those_of_the_readme() -> None:
    blocks = [block for block in doc_blocks.read_blocks(ROOT / "README.md") if block.language == "sh"]
    (first,) = [block for block in blocks if not block.mark]
    assert first_minutes.first_commands() == doc_blocks.split_commands(first.text)


def test_each_command_is_run_in_a_folder_of_photos_and_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(first_minutes.PHOTOS):
        tmp_path.joinpath("in").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "in" / f"{number}.png")
    monkeypatch.setattr(first_minutes, "first_commands", lambda: ["test $(ls photos | wc -l) = 20", "touch made"])
    found = first_minutes.measure_commands(tmp_path / "in", tmp_path / "home", tmp_path)
    assert list(found) == first_minutes.first_commands()
    assert all(seconds > 0 for seconds in found.values())
    assert (tmp_path / "home" / "made").exists()
    monkeypatch.setattr(first_minutes, "first_commands", lambda: ["echo no >&2; false"])
    with pytest.raises(InputError, match="ended with 1: no"):
        first_minutes.measure_commands(tmp_path / "in", tmp_path / "again", tmp_path)


@pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed")
def test_a_page_is_timed_until_its_script_says_that_it_is_ready(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(first_minutes, "ROUNDS", 1)
    script = "setTimeout(() => {{ document.documentElement.{} = 'yes' }}, 50)"
    text = f"<!doctype html><title>x</title><script>{script}</script>"
    (tmp_path / "ready.html").write_text(text.format("dataset.ready"))
    (tmp_path / "never.html").write_text(text.format("title"))
    assert first_minutes.open_page(tmp_path / "ready.html") > 0
    with pytest.raises(InputError, match="was not ready"):
        first_minutes.open_page(tmp_path / "never.html")
