"""A published set that is added to: its images and the bytes of its shards stay, whatever comes or strikes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lucidflux_data.audit.compare import compare
from lucidflux_data.audit.forget import forget
from lucidflux_data.errors import ConfigError, FolderBusy, InputError, VerificationError
from lucidflux_data.growth.part import drop_base, take_base
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from tests.support.here import QUIET, Here, run_filter, run_synthesize, select_into, verified
from tests.support.killing import killed_after
from tests.support.leases import foreign, write_lease
from tests.support.scenarios import speaking_to

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=3"]
PAIRS = ["degrade.size=96", "variants=1", "shards.max_samples=3", "degrade.crop.too_small=reflect"]


def cut_of(photo: Image.Image, number: int) -> Image.Image:
    return photo.crop((24 * number, 15 * number, 24 * number + 130, 15 * number + 130))


def write(folder: Path, name: str, image: Image.Image, quality: int = 95, **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, **more)
    (folder / name).write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """old: seven cuts of a photo; new: three others, a copy of one of old and a small flip of another; more: two."""
    place = tmp_path_factory.mktemp("photos")
    photo = Image.open(next(path for path in photo_paths if path.stem == "chelsea")).convert("RGB")
    other = Image.open(next(path for path in photo_paths if path.stem == "coffee")).convert("RGB")
    for number in range(7):
        write(place / "old", f"{number}.jpg", cut_of(photo, number), comment=b"taken at home")
    for number in range(3):
        write(place / "new", f"{number}.jpg", cut_of(other, number))
    (place / "new" / "copy.jpg").write_bytes((place / "old" / "2.jpg").read_bytes())
    near = cut_of(photo, 4).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((100, 100))
    write(place / "new", "near.jpg", near, 80)
    for number in range(2):
        write(place / "more", f"{number}.jpg", cut_of(other, 5 + number))
    return place


@pytest.fixture(scope="module")
def base(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base") / "base"
    run_filter(photos / "old", place, *ALL, "select.near_duplicates=4")
    return place


def grow(run: Path, base: Path | str, *settings: str, pack: bool = True) -> None:
    """As `select RUN --base BASE` and `pack RUN`."""
    folder = Folder(run)
    config = make_config(settings=settings, base=FilterConfig.model_validate(runs.read_run(folder)["config"]))
    take_base(folder, str(base), config)
    job.select(folder, config, Here(), QUIET)
    if pack:
        job.pack(folder, config, Here(), QUIET)


def new_run(source: Path, run: Path, *settings: str) -> Path:
    return select_into(source, run, *ALL, "select.near_duplicates=4", *settings)


def shards_of(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((place / "shards").iterdir())}


def images_of(place: Path) -> list[str]:
    """sha256 of every image in the tars, by a stock reader."""
    found = []
    for path in sorted((place / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".json"):
                    found.append(hashlib.sha256(tar.extractfile(member).read()).hexdigest())  # type: ignore[union-attr]
    return found


def sums(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def ledger(place: Path) -> dict[str, dict[str, Any]]:
    return {row["uri"].rpartition("/")[2]: row for row in runs.read_ledger(Folder(place)).to_pylist()}


def tree(place: Path) -> dict[str, bytes]:
    skipped = ("events/", ".lease")
    files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(skipped)}


def published_only(base: Path, place: Path) -> Path:
    """What others have of a set: its shards and the manifest."""
    shutil.copytree(base / "shards", place / "shards")
    shutil.copy(base / "manifest.json", place)
    return place


def test_the_base_stays_and_copies_fall_in_what_is_new(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    grow(run, base)
    old, now = shards_of(base), shards_of(run)
    assert {name: now[name] for name in old} == old
    assert sorted(set(now) - set(old)) == ["hq-000003.index.parquet", "hq-000003.tar"]
    expected = sums(photos / "old") | {
        hashlib.sha256((photos / "new" / f"{n}.jpg").read_bytes()).hexdigest() for n in range(3)
    }
    assert sorted(images_of(run)) == sorted(expected)
    rows = ledger(run)
    assert rows["copy.jpg"]["reason"] == "duplicate"
    assert rows["near.jpg"]["reason"] == "near_duplicate"
    assert [rows[f"{number}.jpg"]["reason"] for number in range(3)] == [None] * 3
    assert sum(row["reason"] == "in_base" for row in rows.values()) == 7
    manifest = json.loads((run / "manifest.json").read_bytes())
    before = json.loads((base / "manifest.json").read_bytes())
    assert (manifest["version"], manifest["base"]["version"]) == (2, 1)
    assert manifest["base"]["content_sha256"] == before["content_sha256"]
    assert manifest["shards"][:3] == before["shards"]
    assert manifest["urls"] == "hq-{000000..000003}.tar"
    assert verified(run) == 10
    assert verified(base) == 7
    difference = compare(Folder(base), Folder(run))
    assert difference["added"] == {"not_a_candidate": 3}
    assert difference["removed"] == {}
    assert difference["kept"] == {"first": 7, "second": 10, "both": 7}


def test_its_shards_and_manifest_alone_do_as_well(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    grow(run, base)
    first = shards_of(run)
    place = published_only(base, tmp_path / "published")
    other = new_run(photos / "new", tmp_path / "other")
    grow(other, place)
    second = shards_of(other)
    assert {name: data for name, data in second.items() if name.endswith(".tar")} == {
        name: data for name, data in first.items() if name.endswith(".tar")
    }
    assert json.loads((other / "manifest.json").read_bytes())["version"] == 2
    assert runs.read_run(Folder(other))["base"]["differs"] == [
        "the base does not tell its metric and decoders: its run.json is not there"
    ]
    kinds = {name: (row["keep"], row["reason"], row["group"]) for name, row in ledger(run).items()}
    assert {
        name.rpartition("#")[2]: (row["keep"], row["reason"], row["group"]) for name, row in ledger(other).items()
    } == {name.rpartition("#")[2]: kind for name, kind in kinds.items()}
    assert verified(other) == 10


def test_a_set_in_a_store_is_added_to(photos: Path, base: Path, tmp_path: Path, store: Any) -> None:
    with speaking_to(store):
        store.upload("published", published_only(base, tmp_path / "published"))
        run = new_run(photos / "new", tmp_path / "run")
        grow(run, "s3://published")
        assert verified(run) == 10
        old = shards_of(base)
        assert {name: data for name, data in shards_of(run).items() if name in old} == old


def test_adding_twice_is_adding_once_with_both(photos: Path, base: Path, tmp_path: Path) -> None:
    """Where each image is judged by itself; the division into shards is that of the additions."""
    plain = ["select.near_duplicates=none"]
    first = new_run(photos / "new", tmp_path / "first", *plain)
    grow(first, base, *plain)
    before = tree(first)
    grow(first, base, *plain)
    assert tree(first) == before, "the same addition again changes no byte"
    second = new_run(photos / "more", tmp_path / "second", *plain)
    grow(second, first, *plain)
    both = tmp_path / "both"
    for folder in ("new", "more"):
        for path in (photos / folder).iterdir():
            (both / "photos").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, both / "photos" / f"{folder}-{path.name}")
    once = new_run(both / "photos", both / "run", *plain)
    grow(once, base, *plain)
    twice, one = (json.loads((place / "manifest.json").read_bytes()) for place in (second, once))
    assert twice["content_sha256"] == one["content_sha256"]
    assert (twice["version"], one["version"]) == (3, 2)
    assert sorted(images_of(second)) == sorted(images_of(once))
    assert set(shards_of(first).items()) <= set(shards_of(second).items())
    assert verified(second) == verified(once) == 13


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_an_addition_that_is_killed_ends_in_the_bytes_of_a_quiet_one(
    every: int, photos: Path, base: Path, tmp_path: Path, monkeypatch
) -> None:
    origin, place = new_run(photos / "new", tmp_path / "origin"), tmp_path / "run"
    shutil.copytree(origin, place)
    with killed_after(monkeypatch, 10**6) as steps:
        grow(place, base)
    quiet, old = tree(place), shards_of(base)
    assert len([step for step in steps if step.startswith("move shards/")]) == 8
    for number in range(1, len(steps) + 1, every):
        shutil.rmtree(place)
        shutil.copytree(origin, place)
        with killed_after(monkeypatch, number):
            grow(place, base)
        assert shards_of(base) == old
        if not (place / "journal.json").exists() and (place / "manifest.json").exists():
            assert verified(place) == 10
        with hold(Folder(place), 0.0):
            pass
        grow(place, base)
        assert tree(place) == quiet, f"killed after {steps[number - 1]}"


def test_an_image_of_the_base_that_is_forgotten_stays_out(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    grow(run, base)
    before = shards_of(run)
    gone = hashlib.sha256((photos / "old" / "2.jpg").read_bytes()).hexdigest()  # new/copy.jpg has its bytes
    told = forget(Folder(run), [gone])
    assert len(told["shards_rewritten"]) == 1
    assert gone not in images_of(run)
    after = shards_of(run)
    assert {name.partition(".")[0] for name in before if after[name] != before[name]} == {
        told["shards_rewritten"][0].removesuffix(".tar")
    }
    assert verified(run) == 9
    grow(run, base)
    again = shards_of(run)
    assert {name: again[name] for name in shards_of(base)} == {name: after[name] for name in shards_of(base)}
    assert images_of(run) == [image for image in images_of(run) if image != gone], "no copy brings it back"
    assert verified(run) == 9
    assert verified(base) == 7
    shutil.rmtree(run / "shards")
    verify_run(Folder(run), False, True, Here(), QUIET)
    assert shards_of(run) == again


def test_an_image_that_the_base_forgot_does_not_come_back(photos: Path, base: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(base, tmp_path / "base"))
    gone = hashlib.sha256((photos / "old" / "2.jpg").read_bytes()).hexdigest()
    forget(Folder(place), [gone])
    run = new_run(photos / "new", tmp_path / "run")
    grow(run, place)
    assert ledger(run)["copy.jpg"]["reason"] == "opted_out"
    assert gone not in images_of(run)
    assert verified(run) == 9


def test_a_base_that_is_not_whole_is_refused(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    place = tmp_path / "base"

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(base, place))

    (fresh() / "shards" / "hq-000001.tar").unlink()
    with pytest.raises(VerificationError, match=r"cannot be added to: .*hq-000001\.tar is missing"):
        grow(run, place)
    index = fresh() / "shards" / "hq-000000.index.parquet"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match=r"hq-000000\.index\.parquet does not have the sha256"):
        grow(run, place)
    (fresh() / "manifest.json").unlink()
    with pytest.raises(VerificationError, match=r"has no manifest\.json"):
        grow(run, place)
    config = make_config(
        settings=["rules.min_side=140"], base=FilterConfig.model_validate(runs.read_run(Folder(fresh()))["config"])
    )
    job.select(Folder(place), config, Here(), QUIET)
    with pytest.raises(VerificationError, match="packed from another ledger"):
        grow(run, place)
    before = shards_of(run) if (run / "shards").exists() else {}
    tar = fresh() / "shards" / "hq-000002.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    with pytest.raises(VerificationError, match=r"hq-000002\.tar does not have the sha256 of its manifest"):
        grow(run, place)
    assert (shards_of(run) if (run / "shards").exists() else {}) == before
    with pytest.raises(ConfigError, match="itself"):
        take_base(Folder(run), str(run), config)
    run_synthesize(photos / "old", tmp_path / "pairs", *PAIRS)
    with pytest.raises(InputError, match="no shards of clean images"):
        take_base(Folder(run), str(tmp_path / "pairs"), config)


def test_other_settings_of_the_base_are_named(photos: Path, base: Path, tmp_path: Path) -> None:
    run = select_into(photos / "new", tmp_path / "run", *ALL, "iqa.metric=niqe", "cut.top_fraction=1")
    place = Path(shutil.copytree(base, tmp_path / "base"))
    about = json.loads((place / "run.json").read_bytes())
    about["decoder_version"] = 2
    about.pop("own_sha256")
    (place / "run.json").write_text(json.dumps(about))
    grow(run, place, pack=False)
    differs = runs.read_run(Folder(run))["base"]["differs"]
    assert any(sentence.startswith("the base was cut by none, what is added by niqe") for sentence in differs)
    assert any(sentence.startswith("the base was measured by decoder 2") for sentence in differs)
    assert any("iqa=none" in sentence for sentence in differs)


def test_what_would_take_an_image_out_of_the_base_is_refused(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    listed = tmp_path / "out.txt"
    listed.write_text(hashlib.sha256((photos / "old" / "3.jpg").read_bytes()).hexdigest())
    with pytest.raises(InputError, match=r"1 images of the base would not stay .*opted_out"):
        grow(run, base, f"select.opt_out={listed}")


def test_a_stripped_base_is_added_to_by_the_same_tags(photos: Path, tmp_path: Path) -> None:
    run_filter(photos / "old", tmp_path / "base", *ALL, "shards.strip=gps")
    run = new_run(photos / "new", tmp_path / "run", "select.near_duplicates=none")
    with pytest.raises(ConfigError, match="the base was packed --strip gps"):
        grow(run, tmp_path / "base")
    grow(run, tmp_path / "base", "shards.strip=gps")
    assert ledger(run)["copy.jpg"]["reason"] == "duplicate", "by its bytes before it was stripped"
    assert verified(run) == 11
    assert compare(Folder(tmp_path / "base"), Folder(run))["removed"] == {}
    forget(Folder(run), [hashlib.sha256((photos / "old" / "2.jpg").read_bytes()).hexdigest()])
    assert verified(run) == 10


def test_a_shard_of_the_base_and_its_part_are_mended(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    grow(run, base)
    quiet = tree(run)
    tar = run / "shards" / "hq-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.unlink()
    tar.write_bytes(data)
    unit = next((run / "base").rglob("scores/basic/unit-000000.parquet"))
    unit.write_bytes(b"nothing")
    with pytest.raises(VerificationError):
        verified(run)
    verify_run(Folder(run), False, True, Here(), QUIET)
    assert {name: data for name, data in tree(run).items() if not name.startswith("stray")} == quiet
    assert shards_of(base)["hq-000001.tar"] == quiet["shards/hq-000001.tar"]


def test_pairs_and_on_line_pairs_are_made_of_both(photos: Path, base: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from lucidflux_data import RealESRGANPairs

    run = new_run(photos / "new", tmp_path / "run")
    grow(run, base)
    made = run_synthesize(run, tmp_path / "pairs", *PAIRS)
    assert made["samples"] == 10
    assert verified(tmp_path / "pairs") == 10
    settings = {"size": 96, "crop": {"too_small": "reflect"}}
    pairs, before = (RealESRGANPairs(place, settings=settings) for place in (run, base))
    assert len(pairs) == 10
    of = {item["key"]: item for item in (pairs[number] for number in range(10))}
    for number in range(7):
        item = before[number]
        assert torch.equal(of[item["key"]]["lq"], item["lq"]), "an image's pairs do not change when others come"
    assert np.asarray(pairs[0]["lq"]).dtype == np.uint8


def test_the_base_is_taken_back(photos: Path, base: Path, tmp_path: Path) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    run_filter(photos / "new", tmp_path / "alone", *ALL, "select.near_duplicates=4")
    grow(run, base)
    drop_base(Folder(run))
    config = FilterConfig.model_validate(runs.read_run(Folder(run))["config"])
    job.select(Folder(run), config, Here(), QUIET)
    job.pack(Folder(run), config, Here(), QUIET)
    assert shards_of(run) == shards_of(tmp_path / "alone")
    assert (run / "manifest.json").read_bytes() == (tmp_path / "alone" / "manifest.json").read_bytes()


def test_the_command(photos: Path, base: Path, tmp_path: Path, data_command) -> None:
    run = new_run(photos / "new", tmp_path / "run")
    local = ["--executor", "local", "--num-cpus", "1"]
    dry = data_command("select", run, "--base", base, "--dry-run", "--json", *local)
    assert json.loads(dry.stdout)["in_base"] == 7
    write_lease(str(run), foreign())
    busy = data_command("select", run, "--base", base, *local)
    assert (busy.returncode, (run / "base").exists()) == (FolderBusy.exit_code, False)
    (run / ".lease").unlink()
    done = data_command("select", run, "--base", base, "--json", *local)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["in_base"] == 7
    explored = data_command("explore", run)
    assert (explored.returncode, "adds to a set" in explored.stderr) == (3, True), explored.stderr
    packed = data_command("pack", run, "--json", *local)
    assert (json.loads(packed.stdout)["version"], json.loads(packed.stdout)["kept"]) == (2, 10)
    assert shards.read_manifest(Folder(run))["samples"] == 10
    plan = [
        "plan",
        photos / "new",
        "--iqa",
        "none",
        "--sample",
        "2",
        "--near-duplicates",
        "4",
        "--json",
        "--num-cpus",
        "1",
    ]
    alone, added = (json.loads(data_command(*plan, *more).stdout) for more in ([], ["--base", base]))
    assert added["bytes_in"] - alone["bytes_in"] == json.loads((base / "manifest.json").read_bytes())["bytes"]
    assert added["wall_seconds"].keys() - alone["wall_seconds"].keys() == {"base"}
