"""What pairs were listed of: counts by kind in the summary and in run.json, and warnings that are said each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from lucidflux_data.storage.run_folder import read_about
from pipelines.commands.options import settle
from pipelines.execution.progress import take_warnings
from pipelines.synthesis.job import check_sources
from tests.support.here import run_synthesize
from tests.support.odd_sources import jpeg, tar_bytes, write
from tests.support.stock import serve


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, a tar that breaks off, a folder behind a link, a text."""
    place = tmp_path_factory.mktemp("listed") / "photos"
    member = jpeg(2, 120, 110)
    write(place / "a.jpg", jpeg(1, 120, 110))
    write(place / "s.tar", tar_bytes([("b.jpg", member)])[: 512 + -(-len(member) // 512) * 512])
    write(place / "notes.txt", b"text")
    (place / "link").symlink_to(place.parent)
    return place


def test_the_sum_holds_and_warnings_are_said_again(photos: Path, tmp_path: Path) -> None:
    take_warnings()
    settings = ("degrade.size=96", "variants=1")
    first = run_synthesize(photos, tmp_path / "pairs", *settings)
    told = take_warnings()
    kinds = {"other_files": 1, "damaged_tails": 1, "folders": 1}
    assert (first["listed"], first["candidates"], first["ignored"], first["ignored_by"]) == (5, 2, 3, kinds)
    assert first["candidates"] == first["used"] + sum(first["rejected"].values()) + sum(first["failed"].values())
    about = read_about(Folder(tmp_path / "pairs"))
    assert (about["listed"]["total"], about["listed"]["ignored_by"]) == (5, kinds)
    assert "s.tar is damaged or breaks off" in about["listed"]["warnings"][0]
    assert told == about["listed"]["warnings"]
    again = run_synthesize(photos, tmp_path / "pairs", *settings)
    assert again == first
    assert take_warnings() == told, "on resuming, too"


def test_a_server_of_ones_own_network_is_a_source(tmp_path: Path) -> None:
    before = dict(SETTINGS)
    write(tmp_path / "a.jpg", jpeg(1, 120, 110))
    with serve(tmp_path) as (url, _):
        settle(url)
        check_sources([url])
        summary = run_synthesize(f"{url}/a.jpg", tmp_path / "pairs", "degrade.size=96", "variants=1")
    assert (summary["used"], summary["failed"]) == (1, {})
    SETTINGS.update(before)
    configure({})
