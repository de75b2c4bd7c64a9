"""A set that is written anew, killed after every publish and rename: the old one or the new one, never a mixture."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lucidflux_data.errors import VerificationError
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.journal import JOURNAL
from lucidflux_data.storage.lease import hold
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import QUIET, Here, run_filter, run_synthesize, verified
from tests.support.killing import killed_after

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=3"]
CHANGES = {
    "fewer shards": ([], ["shards.max_samples=5"]),
    "more shards": ([], ["shards.max_samples=2"]),
    "stripped": ([], ["shards.strip=gps"]),
    "not stripped any more": (["shards.strip=gps"], ["shards.strip="]),
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def set_of(files: dict[str, bytes]) -> dict[str, bytes]:
    names = ("shards/", shards.MANIFEST, "stripped.parquet")
    return {name: data for name, data in files.items() if name.startswith(names)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Seven cuts of a photo; every second one has a comment, which stripping takes away."""
    folder = tmp_path_factory.mktemp("photos")
    photo = Image.open(next(path for path in photo_paths if path.stem == "chelsea")).convert("RGB")
    for number in range(7):
        buffer = io.BytesIO()
        more: dict[str, Any] = {"comment": b"taken at home"} if number % 2 else {}
        photo.crop((10 * number, 20 * number, 10 * number + 110, 20 * number + 110)).save(buffer, "JPEG", **more)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())
    return folder


def pack(folder: Folder, settings: list[str]) -> None:
    base = FilterConfig.model_validate(runs.read_run(folder)["config"])
    job.pack(folder, make_config(settings=settings, base=base), Here(), QUIET)


@pytest.mark.parametrize(
    "change", [next(iter(CHANGES)), *(pytest.param(name, marks=pytest.mark.slow) for name in list(CHANGES)[1:])]
)
def test_a_pack_that_is_killed_leaves_the_old_set_or_the_new_one(
    change: str, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    before, after = CHANGES[change]
    run_filter(photos, tmp_path / "origin", *ALL, *before)
    place = tmp_path / "run"
    shutil.copytree(tmp_path / "origin", place)
    with killed_after(monkeypatch, 1000) as steps:
        pack(Folder(place), after)
    quiet, old = tree(place), tree(tmp_path / "origin")
    assert set_of(quiet) != set_of(old)
    assert verified(place) == 7
    assert len([step for step in steps if step.startswith("move ")]) >= 5
    kept_old = 0
    for number in range(1, len(steps) + 1):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "origin", place)
        with killed_after(monkeypatch, number):
            pack(Folder(place), after)
        if (place / JOURNAL).exists():
            with pytest.raises(VerificationError, match="shards took their places"):
                shards.read_manifest(Folder(place))
        with hold(Folder(place), 0.0):  # what any command does first
            pass
        assert set_of(tree(place)) == set_of(quiet if JOURNAL in steps[:number] else old), steps[number - 1]
        assert verified(place) == 7
        kept_old += set_of(tree(place)) == set_of(old)
        pack(Folder(place), after)
        assert tree(place) == quiet, f"killed after {steps[number - 1]}"
    assert kept_old >= 3


@pytest.fixture(params=["run", "pairs"])
def damaged(request: pytest.FixtureRequest, photos: Path, tmp_path: Path) -> Path:
    """A whole folder beside one, `damaged`, whose first tar has a flipped bit and whose second index is gone."""
    place = tmp_path / request.param
    if request.param == "run":
        run_filter(photos, place, *ALL)
    else:
        settings = ["degrade.size=96", "variants=1", "shards.max_samples=3", "degrade.crop.too_small=reflect"]
        run_synthesize(photos, place, *settings)
    copy = Path(shutil.copytree(place, tmp_path / "damaged"))
    first, second = sorted((copy / "shards").glob("*.tar"))[:2]
    data = bytearray(first.read_bytes())
    data[700] ^= 1
    first.write_bytes(data)
    second.with_name(shards.index_name(second.stem)).unlink()
    return copy


def repair(folder: Folder) -> None:
    (verify_pairs if pairs_run.is_pairs(folder) else verify_run)(folder, False, True, Here(), QUIET)


def test_a_repair_that_is_killed_ends_in_the_same_bytes(damaged: Path, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "again"
    shutil.copytree(damaged, place)
    with killed_after(monkeypatch, 1000) as steps:
        repair(Folder(place))
    origin = next(path for path in (tmp_path / "run", tmp_path / "pairs") if path.exists())
    assert set_of(tree(place)) == set_of(tree(origin))
    assert len([step for step in steps if step.startswith("move shards/")]) == 4, "what is whole stays"
    quiet = tree(place)
    for number in range(1, len(steps) + 1):
        shutil.rmtree(place)
        shutil.copytree(damaged, place)
        with killed_after(monkeypatch, number):
            repair(Folder(place))
        assert verified_or_told(place)
        repair(Folder(place))
        assert tree(place) == quiet, f"killed after {steps[number - 1]}"


def verified_or_told(place: Path) -> bool:
    try:
        return verified(place) == 7
    except VerificationError:
        return True


def test_a_staged_file_that_was_damaged_takes_no_place(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """The journal names its sha256; `verify` then tells, and a repair mends."""
    place = tmp_path / "run"
    run_filter(photos, place, *ALL)
    with killed_after(monkeypatch, 1000) as steps:
        pack(Folder(place), ["shards.max_samples=4"])
    quiet = tree(place)
    shutil.rmtree(place)
    run_filter(photos, place, *ALL)
    with killed_after(monkeypatch, steps.index(JOURNAL) + 1):
        pack(Folder(place), ["shards.max_samples=4"])
    journal = json.loads((place / JOURNAL).read_text())
    change = next(change for change in journal["changes"] if change["name"] == "shards/hq-000000.tar")
    old = place / change["name"]
    assert change["old"] == shards.read_index_metadata(Folder(place), "shards/hq-000000.index.parquet")["tar_sha256"]
    before = old.read_bytes()
    staged = place / change["staged"]
    staged.write_bytes(staged.read_bytes()[:-1] + b"x")
    with hold(Folder(place), 0.0):
        pass
    assert old.read_bytes() == before
    with pytest.raises(VerificationError, match=r"hq-000000.tar does not have the sha256"):
        verified(place)
    repair(Folder(place))
    assert set_of(tree(place)) == set_of(quiet)
