"""Suites, and preparing them from real archives: folder, zip, tar; each wrong archive is told by the image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import evaluation
from benchmarks.metrics.profiles import profile_of_metrics
from benchmarks.report.results import Options
from benchmarks.suites import suite as suites
from benchmarks.suites.ids import sample_ids
from benchmarks.suites.prepare import prepare
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.images import decode
from pipelines.bench.infer import find_inputs


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def suite() -> suites.Suite:
    """A suite with the protocol of realsr, of three images."""
    realsr = suites.load_suite("realsr", None)
    return replace(realsr, count=3, input_size=(48, 48), output_size=(192, 192))


@pytest.fixture
def archive(photos: Path, tmp_path: Path) -> Path:
    """As StableSR's archive is laid out, with what such archives carry along."""
    root = tmp_path / "StableSR_testsets" / "RealSRVal_crop128"
    for role, place in (("lq", "test_LR"), ("gt", "test_HR")):
        (root / place).mkdir(parents=True)
        for name in ("astronaut", "chelsea", "coins"):
            shutil.copyfile(photos / role / f"{name}.png", root / place / f"{name}.png")
        (root / place / ".DS_Store").write_bytes(b"\0")
    return tmp_path / "StableSR_testsets"


def test_every_suite_file_loads() -> None:
    names = set(suites.suite_names())
    assert {"reallq250", "realsr", "drealsr", "reallr200", "realphoto60", "realset65", "realset80"} < names
    assert {"div2k-val", "lsdir-val-lf1", "offline-photos"} < names
    for name in names:
        suite = suites.load_suite(name, None)
        assert suite.ids is None or len(suite.ids) == suite.count, name
        assert not suite.pinned
        assert suite.licence
        assert suite.get
        if suite.input_size and suite.output_size:
            assert tuple(side * suite.scale for side in suite.input_size) == suite.output_size, name
    lq250 = suites.load_suite("reallq250", None)
    assert lq250.ids is not None
    assert (lq250.ids[0], lq250.ids[-1], lq250.ids_verified) == ("001", "250", False)
    with pytest.raises(ConfigError, match="reallq250"):
        suites.load_suite("realq250", None)


def test_a_folder_a_zip_and_a_tar_give_the_same_fingerprint(suite, archive: Path, tmp_path: Path) -> None:
    files = [path for path in archive.rglob("*") if path.is_file()]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for path in files:
            made.write(path, path.relative_to(tmp_path))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(archive, "./testsets")
    found = [prepare(suite, source, tmp_path / str(k)) for k, source in
             enumerate((archive, tmp_path / "a.zip", tmp_path / "a.tar.gz"))]  # fmt: skip
    assert len({summary["fingerprint"] for summary in found}) == 1
    lines = []
    for name in ("astronaut", "chelsea", "coins"):
        for role, place in (("lq", "test_LR"), ("gt", "test_HR")):
            data = (archive / "RealSRVal_crop128" / place / f"{name}.png").read_bytes()
            lines.append(f"{name} {role} {hashlib.sha256(data).hexdigest()}\n")
    assert found[0]["fingerprint"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_prepared_suite_is_pinned_and_has_its_images(archive: Path, suite, tmp_path: Path) -> None:
    prepare(suite, archive, tmp_path / "suites" / "realsr")
    loaded = suites.load_suite("realsr", tmp_path / "suites")
    assert loaded.pinned
    assert loaded.ids == ("astronaut", "chelsea", "coins")
    assert np.array_equal(
        decode(loaded.gt["coins"].read_bytes()),
        decode((archive / "RealSRVal_crop128/test_HR/coins.png").read_bytes()),
    )
    with pytest.raises(ConfigError, match="is prepared"):
        suites.with_folders(loaded, archive, None)
    evaluation.evaluate(loaded, [], profile_of_metrics(["psnr"]), Options(), lambda _: {})
    before = loaded.gt["coins"].read_bytes()
    shutil.copyfile(loaded.gt["chelsea"], loaded.gt["coins"])  # the pin in the signature would be untrue
    with pytest.raises(VerificationError, match=r"gt/coins\.png is another image .* prepare realsr again"):
        evaluation.evaluate(loaded, [], profile_of_metrics(["psnr"]), Options(), lambda _: {})
    loaded.gt["coins"].write_bytes(before)
    shutil.copyfile(loaded.lq["chelsea"], loaded.lq["coins"])
    with pytest.raises(VerificationError, match=r"lq/coins\.png is another image than was prepared"):
        find_inputs("realsr", None, None, tmp_path / "suites")
    loaded.lq["coins"].unlink()
    with pytest.raises(InputError, match=r"coins\.png is gone"):
        suites.load_suite("realsr", tmp_path / "suites")


def test_a_candidate_that_shows_a_suite_image_is_found_by_its_fingerprints(
    archive: Path, suite, tmp_path: Path
) -> None:
    """The file that prepare leaves for `select --forbid`, asked about a small JPEG copy and about another photo."""
    import cv2

    from lucidflux_data.measures.fingerprints import fingerprint, make_firewall

    summary = prepare(suite, archive, tmp_path / "suites" / "realsr")
    data = Path(summary["firewall"]).read_bytes()
    assert data == (tmp_path / "suites" / "realsr" / "fingerprints.parquet").read_bytes()
    firewall = make_firewall([data])
    photo = cv2.imread(str(archive / "RealSRVal_crop128" / "test_HR" / "chelsea.png"), cv2.IMREAD_GRAYSCALE)
    copy = cv2.imdecode(cv2.imencode(".jpg", cv2.resize(photo, (96, 96), interpolation=cv2.INTER_AREA))[1], 0)
    found = firewall.match("0" * 64, fingerprint(copy))
    assert found is not None
    assert found.image.startswith("realsr/")
    assert found.image.endswith("chelsea")
    assert firewall.match("0" * 64, fingerprint(cv2.imread(str(_camera()), cv2.IMREAD_GRAYSCALE))) is None


def _camera() -> Path:
    from lucidflux_data.sources.bundled import bundled_photos

    return next(path for path in bundled_photos() if path.stem == "camera")


def test_preparing_again_replaces_the_whole(archive: Path, suite, tmp_path: Path) -> None:
    target = tmp_path / "suites" / "realsr"
    first = prepare(suite, archive, target)
    (target / "stray").write_text("")
    assert prepare(suite, archive, target) == first
    assert sorted(path.name for path in target.iterdir()) == ["fingerprints.parquet", "gt", "lq", "suite.json"]
    assert [path.name for path in target.parent.iterdir()] == ["realsr"]


@pytest.mark.parametrize("content", [b"[]", b"{", b"{}", b"\xff", b'{"version": "1", "images": 5}', None])
def test_a_damaged_record_of_a_suite_is_a_sentence(content: bytes | None, tmp_path: Path) -> None:
    folder = tmp_path / "realsr"
    folder.mkdir()
    version = suites.load_suite("realsr", None).version
    if content is None:
        os.mkfifo(folder / "suite.json")
    else:
        (folder / "suite.json").write_bytes(content.replace(b'"1"', f'"{version}"'.encode()))
    with pytest.raises((ConfigError, InputError), match=r"suite\.json"):
        suites.load_suite("realsr", tmp_path)


def replaced(path: Path, size: tuple[int, int]) -> None:
    with Image.open(path) as image:
        image.resize(size).save(path)


BREAK = {
    "missing reference": (lambda root: (root / "test_HR/coins.png").unlink(), InputError, "has 2"),
    "extra input": (
        lambda root: shutil.copy(root / "test_LR/coins.png", root / "test_LR/more.png"),
        InputError,
        "has 4",
    ),
    "wrong name": (lambda root: (root / "test_LR/coins.png").rename(root / "test_LR/coin.png"), InputError, "coin"),
    "wrong size": (
        lambda root: replaced(root / "test_LR/coins.png", (64, 64)),
        InputError,
        "lq/coins is 64x64, not 48x48",
    ),
    "truncated": (
        lambda root: (root / "test_HR/coins.png").write_bytes((root / "test_HR/coins.png").read_bytes()[:900]),
        InputError,
        "gt/coins is truncated",
    ),
    "two of one id": (
        lambda root: shutil.copy(root / "test_LR/coins.png", root / "test_LR/coins.bmp"),
        InputError,
        "two lq images of id coins",
    ),
    "no such folder": (lambda root: shutil.rmtree(root / "test_HR"), InputError, "no images at any of"),
}


@pytest.mark.parametrize("what", list(BREAK))
def test_wrong_archives(what: str, archive: Path, suite, tmp_path: Path) -> None:
    damage, error, message = BREAK[what]
    damage(archive / "RealSRVal_crop128")
    with pytest.raises(error, match=message):
        prepare(suite, archive, tmp_path / "suites" / "realsr")
    assert not (tmp_path / "suites" / "realsr").exists()
    assert not list((tmp_path / "suites").glob("*")) if (tmp_path / "suites").exists() else True


def test_pinned_hashes_name_the_image_that_differs(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "RealSet65"
    folder.mkdir()
    pins = {}
    for name in ("astronaut", "coins"):
        data = (photos / "gt" / f"{name}.png").read_bytes()
        (folder / f"{name}.png").write_bytes(data)
        pins[name] = suites.Pin(sha256=hashlib.sha256(data).hexdigest(), width=192, height=192)
    real = suites.load_suite("realset65", None)
    suite = replace(real, count=2, ids=tuple(pins), pins=pins)
    prepare(suite, tmp_path, tmp_path / "out")
    replaced(folder / "coins.png", (100, 100))
    with pytest.raises(VerificationError, match="lq/coins is another image"):
        prepare(suite, tmp_path, tmp_path / "out")
    (folder / "coins.png").unlink()
    with pytest.raises(InputError, match="coins is missing"):
        prepare(suite, tmp_path, tmp_path / "out")


def test_nothing_to_prepare_from(suite, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="StableSR_testsets"):
        prepare(suite, None, tmp_path / "out")
    with pytest.raises(InputError, match="is not there"):
        prepare(suite, tmp_path / "nowhere.zip", tmp_path / "out")
    (tmp_path / "text.tar").write_text("no tar")
    with pytest.raises(InputError, match="neither a folder, a zip nor a tar"):
        prepare(suite, tmp_path / "text.tar", tmp_path / "out")


def test_offline_photos_are_pairs_of_their_plans(tmp_path: Path) -> None:
    """Made twice it is the same; an input is the degradation of its reference by the plan of the photo's bytes."""
    from lucidflux_data.degradation.backends import load_backend
    from lucidflux_data.degradation.config import make_degrade_config
    from lucidflux_data.degradation.plan import draw_plan
    from lucidflux_data.sources.bundled import bundled_photos

    suite = suites.load_suite("offline-photos", tmp_path)
    assert suite.synthesis is not None
    synthesis = suite.synthesis.model_copy(update={"photos": ["astronaut", "coffee", "camera"]})
    few = replace(suite, count=3, synthesis=synthesis)
    assert prepare(few, None, tmp_path / "a") == prepare(few, None, tmp_path / "a")
    about = json.loads((tmp_path / "a" / "suite.json").read_text())
    assert about["images"]["coffee"]["gt"]["width"] == 288
    photo = next(path for path in bundled_photos() if path.stem == "coffee").read_bytes()
    config = make_degrade_config("realesrgan-x4", ["seed=1", "size=288"])
    plan = draw_plan(hashlib.sha256(photo).hexdigest()[:20], 0, config)
    hq, lq = (decode((tmp_path / "a" / role / "coffee.png").read_bytes()) for role in ("gt", "lq"))
    assert np.array_equal(load_backend("cv2")(hq, plan), lq)


def test_lsdir_is_regenerated_from_its_images(photos: Path, tmp_path: Path) -> None:
    suite = suites.load_suite("lsdir-val-lf1", tmp_path)
    assert suite.synthesis is not None
    synthesis = suite.synthesis.model_copy(update={"size": 128})
    small = replace(suite, count=6, input_size=(32, 32), output_size=(128, 128), synthesis=synthesis)
    summary = prepare(small, photos / "gt", tmp_path / "out")
    assert summary["images"] == 6
    with pytest.raises(InputError, match="is smaller than 1024 pixels"):
        prepare(suite, photos / "gt", tmp_path / "out")


def test_samples_are_nested_and_in_order() -> None:
    ids = suites.expand("{001..250}")
    ten, fifty = sample_ids(ids, 10), sample_ids(ids, 50)
    assert set(ten) < set(fifty)
    assert list(fifty) == sorted(fifty)
    assert sample_ids(ids, None) == sample_ids(ids, 900) == ids
