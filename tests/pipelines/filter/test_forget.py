"""`forget` killed at every publish and repeated: the bytes of a quiet one, and no state in between passes as whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit import forget as governance
from lucidflux_data.errors import VerificationError
from lucidflux_data.explore.page import PAGE
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import TarWriter
from lucidflux_data.storage import formats, journal
from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import QUIET, Here, run_filter, run_synthesize, verified
from tests.support.killing import killed_after

ALL = ["iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1", "shards.max_samples=4"]
PAIRS = ["degrade.size=96", "variants=2", "shards.max_samples=8", "degrade.crop.too_small=reflect"]


@dataclass(frozen=True)
class Case:
    """A folder that is put back to `origin` as often as a test likes, and what to take out of it."""

    origin: Path
    place: Path
    forget: Callable[..., dict[str, Any]]
    first: list[str]  # one image of the first shard, and all images of the second
    other: list[str]  # one more image of the first shard, and one of the third

    def fresh(self) -> Folder:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.origin, self.place)
        return Folder(self.place)

    def quiet(self, images: list[str]) -> dict[str, bytes]:
        folder = self.fresh()
        self.forget(folder, images)
        return tree(self.place)

    def steps(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        folder = self.fresh()
        with killed_after(monkeypatch, 1000) as names:
            self.forget(folder, self.first)
        return names


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    images = [cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee")]
    for number in range(12):
        cut = images[number % 3][20 * number :][:110, 10 * number :][:, :110]
        (folder / f"{number:02d}.jpg").write_bytes(cv2.imencode(".jpg", cut)[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def origins(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("origins")
    run_filter(photos, base / "run", *ALL)
    run_synthesize(photos, base / "pairs", *PAIRS)
    (base / "pairs" / "view.html").write_text("with pixels")
    (base / "run" / PAGE).write_text("with pixels")
    return {"run": base / "run", "pairs": base / "pairs"}


@pytest.fixture(params=["run", "pairs"])
def case(request: pytest.FixtureRequest, origins: dict[str, Path], tmp_path: Path) -> Case:
    return make_case(request.param, origins, tmp_path)


def make_case(kind: str, origins: dict[str, Path], tmp_path: Path) -> Case:
    origin = origins[kind]
    indices = sorted((origin / "shards").glob("*.index.parquet"))
    keys = [sorted({key[:20] for key in pq.read_table(path)["key"].to_pylist()}) for path in indices]
    assert [len(mine) for mine in keys] == [4, 4, 4]
    forget = governance.forget if kind == "run" else governance.forget_pairs
    return Case(origin, tmp_path / kind, forget, [keys[0][1], *keys[1]], [keys[0][0], keys[2][2]])


def check(folder: Folder, repair: bool = False, deep: bool = False) -> None:
    (verify_run if folder.root.endswith("run") else verify_pairs)(folder, deep, repair, Here(), QUIET)


def test_every_kill_is_told_and_repeated_to_the_bytes_of_a_quiet_forget(case: Case, monkeypatch) -> None:
    quiet = case.quiet(case.first)
    manifest = json.loads(quiet["manifest.json"])
    assert [entry["samples"] for entry in manifest["shards"]] == [s["samples"] * n // 4 for s, n in zip(
        json.loads((case.origin / "manifest.json").read_text())["shards"], (3, 0, 4), strict=True)]  # fmt: skip
    assert verified(case.place) == manifest["samples"]
    steps = case.steps(monkeypatch)
    assert sum(name.startswith("move shards/") for name in steps) == 4
    last = steps.index("remove journal") + 1
    for number in range(1, len(steps) + 1):
        folder = case.fresh()
        with killed_after(monkeypatch, number):
            case.forget(folder, case.first)
        assert not any((case.place / page).exists() for page in ("view.html", PAGE)), "they show what is forgotten"
        if number < last:
            with pytest.raises(VerificationError, match=r"repeat|took their places"):
                check(folder)
        case.forget(folder, case.first)
        assert tree(case.place) == quiet, f"killed after {steps[number - 1]}"


@pytest.mark.slow
def test_another_forget_after_a_killed_one_takes_out_both(case: Case, monkeypatch) -> None:
    quiet = case.quiet([*case.first, *case.other])
    for number in range(1, len(case.steps(monkeypatch)) + 1):
        folder = case.fresh()
        with killed_after(monkeypatch, number) as names:
            case.forget(folder, case.first)
        told = case.forget(folder, case.other)
        assert told["forgotten"] == 2
        assert tree(case.place) == quiet, f"killed after {names[-1]}"


def test_a_repair_finishes_a_killed_forget(case: Case, monkeypatch) -> None:
    quiet = case.quiet(case.first)
    for number in range(1, len(case.steps(monkeypatch)) + 1):
        folder = case.fresh()
        with killed_after(monkeypatch, number) as names:
            case.forget(folder, case.first)
        check(folder, repair=True)
        if number < len(names):
            assert tree(case.place) == quiet, f"killed after {names[-1]}"
        assert {name for name in tree(case.place) if name.startswith("shards/")} == {
            name for name in quiet if name.startswith("shards/")
        }
        assert verified(case.place) > 0


@pytest.mark.slow
def test_a_repair_of_a_killed_forget_with_a_damaged_shard(case: Case, monkeypatch) -> None:
    """What cannot be finished is made again from the sources, without what was forgotten."""
    steps = case.steps(monkeypatch)
    for number in range(1, len(steps)):
        folder = case.fresh()
        with killed_after(monkeypatch, number):
            case.forget(folder, case.first)
        for tar in sorted((case.place / "shards").glob("*-000000.tar")):
            data = bytearray(tar.read_bytes())
            data[700] ^= 1
            tar.write_bytes(data)
        check(folder, repair=True)
        assert verified(case.place) > 0
        everything = b"".join(data for name, data in tree(case.place).items() if name.endswith(".tar"))
        assert not [key for key in case.first if key.encode() in everything], steps[number - 1]


def test_a_repeated_pack_after_a_killed_forget_brings_nothing_back(origins, tmp_path: Path, monkeypatch) -> None:
    case = make_case("run", origins, tmp_path)
    steps = case.steps(monkeypatch)
    for number in range(1, len(steps) + 1):
        folder = case.fresh()
        with killed_after(monkeypatch, number):
            case.forget(folder, case.first)
        job.pack(folder, FilterConfig.model_validate(runs.read_run(folder)["config"]), Here(), QUIET)
        if journal.JOURNAL in steps[:number]:  # what follows finishes it
            assert verified(case.place) == 7
            continue
        with pytest.raises(VerificationError, match=r"selected.parquet keeps 5 images of forgotten.txt: repeat"):
            check(folder)
        case.forget(folder, case.first)
        assert verified(case.place) == 7


@pytest.mark.slow
def test_a_repeated_synthesize_after_a_killed_forget_finishes_it(photos, origins, tmp_path: Path, monkeypatch) -> None:
    case = make_case("pairs", origins, tmp_path)
    quiet = case.quiet(case.first)
    for number in range(1, len(case.steps(monkeypatch)) + 1):
        folder = case.fresh()
        with killed_after(monkeypatch, number) as names:
            case.forget(folder, case.first)
        assert run_synthesize(photos, case.place, *PAIRS)["rejected"] == {"opted_out": 5}
        assert tree(case.place) == quiet, f"killed after {names[-1]}"


def cut_by_old_offsets(folder: Path, name: str, gone: set[str]) -> None:
    """What version 0.1.0 wrote on the repeat: the new tar, cut by the index of the old one, under the old names."""
    index = folder / "shards" / shards.index_name(name)
    tar = (folder / "shards" / f"{name}.tar").read_bytes()
    metadata = shards.read_index_metadata(Folder(folder), f"shards/{index.name}")
    rows = pq.read_table(index).to_pylist()
    known = dict(zip(sorted({row["key"] for row in rows}), metadata["sha256s"].split("\n"), strict=True))
    samples: dict[str, dict[str, bytes]] = {}
    for row in rows:
        if row["key"][:20] not in gone:
            extension = row["member"].removeprefix(f"{row['key']}.")
            samples.setdefault(row["key"], {})[extension] = tar[row["offset"] : row["offset"] + row["size"]]
    writer = TarWriter(sha256s=[known[key] for key in samples])
    (folder / "shards" / f"{name}.tar").write_bytes(b"".join(writer.chunks(samples.items())))
    more = {"failed": "[]"} if "failed" in metadata else {}
    index.write_bytes(writer.index_bytes(metadata["plan"], more))


@pytest.fixture
def left_by_0_1_0(case: Case) -> Folder:
    """Killed between the tar and the index of the first shard; 0.1.0 did not withdraw the manifest."""
    after = case.quiet(case.first)
    folder = case.fresh()
    tar = f"shards/{sorted((case.origin / 'shards').glob('*.tar'))[0].name}"
    for name in {"forgotten.txt", "run.json", "selected.parquet", tar} & after.keys():
        (case.place / name).write_bytes(after[name])
    for page in ("report.html", "view.html", PAGE):
        (case.place / page).unlink(missing_ok=True)
    return folder


def test_what_0_1_0_left_between_tar_and_index_is_healed(case: Case, left_by_0_1_0: Folder) -> None:
    with pytest.raises(VerificationError, match="repeat `lucidflux-data forget`"):
        check(left_by_0_1_0)
    case.forget(left_by_0_1_0, case.first)
    assert tree(case.place) == case.quiet(case.first)


def test_what_0_1_0_made_of_it_is_found_refused_and_mended(case: Case, left_by_0_1_0: Folder) -> None:
    name = sorted((case.place / "shards").glob("*.tar"))[0].stem
    cut_by_old_offsets(case.place, name, {case.first[0]})
    with pytest.raises(VerificationError):  # goes on with the second shard and the manifest
        case.forget(left_by_0_1_0, case.other[:1])
    (case.place / "forgotten.txt").write_text("\n".join(sorted(case.first)) + "\n")
    case.forget(left_by_0_1_0, case.first)  # the first shard names none of it any more
    broken = [key for key, data in images(case.place) if not is_its_name(key, data, case.place, name)]
    assert broken, "0.1.0 wrote other bytes under some names"
    for deep in (False, True):
        with pytest.raises(VerificationError, match="has other bytes than its sha256") as told:
            check(left_by_0_1_0, deep=deep)
        assert [key for key in broken if key not in str(told.value)] == []
    check(left_by_0_1_0, repair=True)
    assert verified(case.place) > 0
    assert not any(case.first[0] in key for key, _ in images(case.place))


def images(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(sample key, HQ and LQ or the image, in the order of their names) of the first shard."""
    with tarfile.open(sorted((folder / "shards").glob("*.tar"))[0]) as file:
        found: dict[str, bytes] = {}
        for member in sorted(file, key=lambda member: member.name):
            key = member.name.partition(".")[0]
            if not member.name.endswith(".json"):
                found[key] = found.get(key, b"") + file.extractfile(member).read()
    yield from found.items()


def is_its_name(key: str, data: bytes, folder: Path, name: str) -> bool:
    metadata = pq.read_schema(folder / "shards" / shards.index_name(name)).metadata
    keys = sorted(set(pq.read_table(folder / "shards" / shards.index_name(name))["key"].to_pylist()))
    return hashlib.sha256(data).hexdigest() == metadata[b"sha256s"].decode().split("\n")[keys.index(key)]


def test_damaged_bytes_are_not_copied(case: Case) -> None:
    folder = case.fresh()
    tar = sorted((case.place / "shards").glob("*.tar"))[0]
    index = pq.read_table(tar.with_name(shards.index_name(tar.stem))).to_pylist()
    row = next(row for row in index if row["key"][:20] == case.other[0])
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 30] ^= 1
    tar.write_bytes(data)
    with pytest.raises(VerificationError, match=f"{tar.name} of .* is not what its index says"):
        case.forget(folder, case.first)
    assert tar.read_bytes() == data
    tar.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(VerificationError, match=f"{tar.name} of .* is not what its index says"):
        case.forget(folder, case.first)
    tar.unlink()
    with pytest.raises(VerificationError, match=f"{tar.name} is missing"):
        case.forget(folder, case.first)
    check(folder, repair=True)
    assert verified(case.place) > 0


def test_a_repair_after_a_forget_gives_the_bytes_of_before(case: Case) -> None:
    """What was decided stays, and how it was divided: pointers into the shards stay good."""
    folder, quiet = case.fresh(), case.quiet(case.first)
    for damage in (lambda tar: tar.write_bytes(tar.read_bytes()[:700] + b"!" + tar.read_bytes()[701:]),
                   Path.unlink, lambda tar: tar.with_name(shards.index_name(tar.stem)).unlink()):  # fmt: skip
        for tar in sorted((case.place / "shards").glob("*.tar"))[::2]:
            damage(tar)
        with pytest.raises(VerificationError):
            check(folder)
        check(folder, repair=True)
        assert tree(case.place) == quiet


@pytest.mark.parametrize("damaged", ["shards/hq-000000.tar", "selected.parquet"])
def test_what_a_forgotten_image_displaced_stays_out_while_the_ledger_is_whole(
    damaged: str, photos: Path, tmp_path: Path
) -> None:
    """A repair decides again where the ledger itself is damaged: then a near-duplicate may come in, never the image."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        shutil.copyfile(photos / f"{number:02d}.jpg", tmp_path / "photos" / f"{number}.jpg")
    again = cv2.imencode(".jpg", cv2.imread(str(photos / "00.jpg")), [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    (tmp_path / "photos" / "again.jpg").write_bytes(again)
    run_filter(tmp_path / "photos", tmp_path / "run", *ALL, "select.near_duplicates=8")
    folder = Folder(tmp_path / "run")

    def decided() -> dict[str, str | None]:
        rows = folder.read_table("selected.parquet", ["uri", "keep", "reason"]).to_pylist()
        return {row["uri"].rpartition("/")[2]: None if row["keep"] else row["reason"] for row in rows}

    (displaced,) = (name for name, reason in decided().items() if reason == "near_duplicate")
    (best,) = {"0.jpg", "again.jpg"} - {displaced}
    governance.forget(folder, [hashlib.sha256((tmp_path / "photos" / best).read_bytes()).hexdigest()])
    before = tree(tmp_path / "run")
    data = bytearray((tmp_path / "run" / damaged).read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "run" / damaged).write_bytes(data)
    check(folder, repair=True)
    assert verified(tmp_path / "run") > 0
    assert decided()[best] == "opted_out"
    if damaged == "selected.parquet":
        assert decided()[displaced] is None
    else:
        assert tree(tmp_path / "run") == before


def test_an_empty_shard_is_forgotten_from_again(case: Case) -> None:
    """All samples of a shard went, then its neighbours."""
    folder = case.fresh()
    case.forget(folder, case.first)
    case.forget(folder, case.other)
    case.forget(folder, case.first)
    assert verified(case.place) > 0


def sealed(folder: Path, name: str, change: Callable[[dict[str, dict[str, bytes]], list[str]], None]) -> None:
    """Writes a shard again after `change` of its samples and their sha256s, with index and manifest that agree."""
    here, place = Folder(folder), folder / "shards" / f"{name}.tar"
    metadata = shards.read_index_metadata(here, f"shards/{shards.index_name(name)}")
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(place) as file:
        for member in file:
            key, _, extension = member.name.partition(".")
            samples.setdefault(key, {})[extension] = file.extractfile(member).read()
    hashes = metadata["sha256s"].split("\n")
    change(samples, hashes)
    writer = TarWriter(sha256s=hashes)
    place.write_bytes(b"".join(writer.chunks(samples.items())))
    more = {"failed": "[]"} if "failed" in metadata else {}
    place.with_name(shards.index_name(name)).write_bytes(writer.index_bytes(metadata["plan"], more))
    before = json.loads((folder / "manifest.json").read_text())
    names = [entry["name"].removesuffix(".tar") for entry in before["shards"]]
    renewed = before | json.loads(shards.make_manifest(here, "shards", names, before["digests"]))
    (folder / "manifest.json").write_bytes(formats.canonical_json(renewed))


def swap(samples: dict[str, dict[str, bytes]], _: list[str]) -> None:
    """The images of the first two samples, each under the name of the other."""
    first, second = list(samples)[:2]
    for extension in [name for name in samples[first] if name != "json"]:
        samples[first][extension], samples[second][extension] = samples[second][extension], samples[first][extension]


def test_deep_compares_each_sample_with_its_sha256(case: Case) -> None:
    folder = case.fresh()
    name = sorted((case.place / "shards").glob("*.tar"))[0].stem
    sealed(case.place, name, swap)
    check(folder)
    with pytest.raises(VerificationError, match="has other bytes than its sha256 in the index says"):
        check(folder, deep=True)


def test_deep_compares_each_image_with_its_name(origins, tmp_path: Path) -> None:
    case = make_case("run", origins, tmp_path)
    folder = case.fresh()

    def change(samples: dict[str, dict[str, bytes]], hashes: list[str]) -> None:
        swap(samples, hashes)
        hashes[0], hashes[1] = hashes[1], hashes[0]

    sealed(case.place, "hq-000000", change)
    check(folder)
    with pytest.raises(VerificationError, match=f"{case.other[0]} is the name of other bytes"):
        check(folder, deep=True)


def test_a_json_member_that_is_none_is_one_sentence(case: Case) -> None:
    folder = case.fresh()
    name = sorted((case.place / "shards").glob("*.tar"))[0].stem
    key = sorted(set(pq.read_table(case.place / "shards" / shards.index_name(name))["key"].to_pylist()))[0]
    sealed(case.place, name, lambda samples, _: samples[key].update(json=b"\xff\xd8\xc7"))
    with pytest.raises(VerificationError, match=f"{key}.* is of another"):
        check(folder, deep=True)


def test_a_normalized_image_keeps_its_name(tmp_path: Path, photo_paths: list[Path]) -> None:
    """16 bits a sample are packed with 8: other bytes under the name of the source, which is meant."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "chelsea")))[:200, :200]
    (folder / "deep.png").write_bytes(cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes())
    run_filter(folder, tmp_path / "run", *ALL, "shards.normalize=true")
    ((key, data),) = images(tmp_path / "run")
    assert hashlib.sha256(data).hexdigest()[:20] != key
    assert verified(tmp_path / "run") == 1


@pytest.mark.slow
def test_a_store_keeps_every_state_apart(photos: Path, store: Any, tmp_path: Path, monkeypatch) -> None:
    """One object is one publish: a run in a bucket, killed after each."""
    before = dict(SETTINGS)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    configure({"endpoint_url": store.url})
    client = store.client()
    client.create_bucket(Bucket="forget")
    try:
        run_filter(photos, "s3://forget/run", *ALL)
        origin = store.files("forget", "run/")
        folder = Folder("s3://forget/run")
        index = folder.read_table("shards/hq-000000.index.parquet")
        victim = index["key"].to_pylist()[2]
        governance.forget(folder, [victim])
        quiet = store.files("forget", "run/")
        for number in range(1, 25, 3):
            folder.remove("")
            for name, data in origin.items():
                client.put_object(Bucket="forget", Key=name, Body=data)
            with killed_after(monkeypatch, number) as names:
                governance.forget(folder, [victim])
            if "remove journal" not in names:
                with pytest.raises(VerificationError, match=r"repeat|took their places"):
                    check(folder)
            elif number > len(names):
                break
            governance.forget(folder, [victim])
            assert store.files("forget", "run/") == quiet, f"killed after {names[-1]}"
    finally:
        SETTINGS.update(before)
        configure({})
