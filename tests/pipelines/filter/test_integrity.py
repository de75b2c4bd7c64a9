"""`verify` compares every byte that a run or a folder of pairs is made of; `--repair` gives them back, or refuses."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.audit.forget import forget, forget_pairs
from lucidflux_data.errors import LucidFluxError, VerificationError
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.config import make_pairs_config, pairs_label
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import canonical_json
from lucidflux_data.storage.run_folder import read_about, seal
from pipelines.execution.progress import Progress
from pipelines.filter import job
from pipelines.filter.forbidden import make_fingerprints
from pipelines.filter.repair import verify_run
from pipelines.synthesis.job import synthesize
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import Here, run_filter
from tests.support.photos import write_small

QUIET = Progress(quiet=True)
STEPS = ("score", "select", "pack")
Verify = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    return write_small(tmp_path_factory.mktemp("integrity") / "photos", photo_paths[:14], 256, 224)


@pytest.fixture(scope="module")
def whole_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("run") / "run")
    settings = ["iqa.metric=niqe", "cut.top_fraction=0.9", "rules.min_side=64", "shards.max_samples=4"]
    config = make_config("demo", settings=settings)
    job.list_into(folder, [absolute_url(str(photos))], config, "demo", None, STEPS, QUIET)
    job.score(folder, config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)
    return Path(str(folder))


@pytest.fixture(scope="module")
def whole_pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("pairs") / "pairs")
    config = make_pairs_config("realesrgan-x4", settings=["degrade.size=192", "shards.max_samples=8", "variants=1"])
    label = pairs_label("realesrgan-x4", config)
    about = pairs_run.make_run(config, label, "cv2", [absolute_url(str(photos))], None)
    pairs_run.start(folder, about)
    synthesize(folder, about, Here(), QUIET)
    return Path(str(folder))


@pytest.fixture(params=["run", "pairs"])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Verify]:
    """A whole folder, a copy of it to damage, and what verifies it."""
    whole = request.getfixturevalue(f"whole_{request.param}")
    shutil.copytree(whole, tmp_path / "copy")
    return whole, tmp_path / "copy", verify_run if request.param == "run" else verify_pairs


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check(verify: Verify, folder: Path, repair: bool = False) -> dict[str, Any]:
    return verify(Folder(folder), False, repair, Here(), QUIET)


def fail(verify: Verify, folder: Path, repair: bool = False) -> LucidFluxError | None:
    """The error that a check ends with, if any."""
    try:
        check(verify, folder, repair)
    except LucidFluxError as error:
        return error
    return None


def damage(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found_and_mended_or_refused(copied: tuple[Path, Path, Verify]) -> None:
    """In each file in turn. What passes has the content of before: a bit that Parquet does not read."""
    whole, folder, verify = copied
    rng, before = random.Random(0), tree(whole)
    pages = dict.fromkeys(("report.html", "view.html"), "")
    for name in [name for name in before if name not in pages for _ in range(3)]:
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        damage(folder / name, rng)
        found = fail(verify, folder)
        if found is None:
            assert name.endswith(".parquet"), f"{name} was changed, and nothing was said"
            assert Folder(folder).read_table(name).equals(Folder(whole).read_table(name)), name
            continue
        assert found.exit_code in (3, 6), str(found)
        refused = fail(verify, folder, repair=True)
        if refused is not None:
            assert name in ("run.json", "inventory.parquet"), str(refused)
            assert "from a copy" in str(refused)
        else:
            assert tree(folder) | pages == before | pages


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"shards": 3}', b"{}"])
def test_a_manifest_that_is_missing_or_damaged_is_made_again(
    copied: tuple[Path, Path, Verify], content: bytes | None
) -> None:
    whole, folder, verify = copied
    manifest = next(folder.glob("manifest.json"))
    manifest.unlink() if content is None else manifest.write_bytes(content)
    with pytest.raises(LucidFluxError):
        check(verify, folder)
    check(verify, folder, repair=True)
    assert tree(folder) == tree(whole)


def test_without_a_manifest_a_damaged_tar_is_not_taken_for_whole(copied: tuple[Path, Path, Verify]) -> None:
    whole, folder, verify = copied
    (folder / "manifest.json").unlink()
    tar = sorted((folder / "shards").glob("*.tar"))[0]
    damage(tar, random.Random(1))
    check(verify, folder, repair=True)
    assert tree(folder) == tree(whole)


def test_what_is_ours_moves_to_stray_and_what_is_the_users_stays(copied: tuple[Path, Path, Verify]) -> None:
    whole, folder, verify = copied
    tar = sorted((folder / "shards").glob("*.tar"))[0]
    stray = f"shards/{tar.name.split('-')[0]}-000077.tar"
    (folder / stray).write_bytes(b"left behind")
    for mine in ("notes.txt", "hq-1.tar", "my-000001.tar"):
        (folder / "shards" / mine).write_text("mine")
    with pytest.raises(VerificationError, match=f"{stray} is in no manifest"):
        check(verify, folder)
    check(verify, folder, repair=True)
    assert (folder / "stray" / stray).read_bytes() == b"left behind"
    damage(tar, random.Random(2))
    check(verify, folder, repair=True)
    assert {(folder / "shards" / mine).read_text() for mine in ("notes.txt", "hq-1.tar", "my-000001.tar")} == {"mine"}
    left = {name: value for name, value in tree(folder).items() if "stray" not in name and value != _hash(b"mine")}
    assert left == tree(whole)


def test_score_units_that_no_candidate_has_move_to_stray(whole_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run, folder)
    unit = folder / "scores" / "basic" / "unit-000099.parquet"
    shutil.copy(folder / "scores" / "basic" / "unit-000000.parquet", unit)
    with pytest.raises(VerificationError, match=r"unit-000099\.parquet is in no manifest"):
        check(verify_run, folder)
    check(verify_run, folder, repair=True)
    assert not unit.exists()
    shutil.rmtree(folder / "stray")
    assert tree(folder) == tree(whole_run)


@pytest.mark.parametrize("measure", ["basic", "niqe"])
@pytest.mark.parametrize("content", ["PAR1", "the next unit", ""])
def test_a_damaged_score_unit_is_measured_again(whole_run: Path, tmp_path: Path, measure: str, content: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run, folder)
    units = sorted((folder / "scores" / measure).iterdir())
    units[0].write_bytes(units[1].read_bytes() if content == "the next unit" else content.encode())
    with pytest.raises(VerificationError, match=f"scores/{measure}/unit-000000.parquet is damaged"):
        check(verify_run, folder)
    check(verify_run, folder, repair=True)
    assert tree(folder) == tree(whole_run)


def test_a_changed_seed_is_refused_whether_the_file_has_a_seal_or_not(copied: tuple[Path, Path, Verify]) -> None:
    """One changed byte: `--repair` once made other pairs over all good ones, and then verified them."""
    whole, folder, verify = copied
    about = read_about(Folder(folder))
    changed = json.loads(json.dumps(about))
    place = changed["config"]["degrade"] if "degrade" in changed["config"] else changed["listed"]
    place["seed"] = 7
    sealed = {**changed, "own_sha256": json.loads(seal(about))["own_sha256"]}
    for content, said in ((sealed, "was changed after it was written"), (changed, "does not fit its own digests")):
        (folder / "run.json").write_bytes(canonical_json(content))
        damage(sorted((folder / "shards").glob("*.tar"))[0], random.Random(3))
        before = tree(folder)
        with pytest.raises(VerificationError, match=said):
            check(verify, folder, repair=True)
        with pytest.raises(VerificationError):
            check(verify, folder)
        assert tree(folder) == before, "nothing was touched"
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)


def test_a_folder_without_a_seal_is_well_and_says_what_was_not_recorded(
    copied: tuple[Path, Path, Verify], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, verify = copied
    (folder / "run.json").write_bytes(canonical_json(dict(read_about(Folder(folder)))))
    told = check(verify, folder)
    assert any("not recorded before this version" in warning for warning in told["warnings"])
    assert check(verify, folder, repair=True)["problems"] == 0


def test_a_folder_of_another_job_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(canonical_json({"schema_version": 1, "kind": "restored images"}))
    (tmp_path / "manifest.json").write_bytes(canonical_json({"records": []}))
    with pytest.raises(VerificationError, match="is not a run of the filter: it holds restored images"):
        check(verify_run, tmp_path)


def test_a_byte_that_is_no_text_in_a_name_or_in_metadata(copied: tuple[Path, Path, Verify]) -> None:
    """pyarrow decodes them by itself, and raises neither an error of its own nor an OSError."""
    whole, folder, verify = copied
    for name, what in ((n, w) for n in tree(whole) for w in (b"key", b"size", b"uri", b"reason", b"plan", b"sha256s")):
        data = (whole / name).read_bytes()
        at = data.rfind(what)
        if not name.endswith(".parquet") or at < 0:
            continue
        value = at + (len(what) + 9 if what in (b"plan", b"sha256s") else 1)
        (folder / name).write_bytes(data[:value] + b"\xb9" + data[value + 1 :])
        for repair in (False, True):
            error = fail(verify, folder, repair)
            assert error is None or error.exit_code in (3, 6), name
        shutil.copy(whole / name, folder / name)


@pytest.fixture(scope="module")
def stripped(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was compared with a suite and stripped: its images hold a comment."""
    place = tmp_path_factory.mktemp("stripped")
    shutil.copytree(photos, place / "photos")
    for path in (place / "photos").glob("*.jpg"):
        data = path.read_bytes()
        path.write_bytes(data[:2] + b"\xff\xfe\0\x09comment" + data[2:])
    (place / "suite").mkdir()
    first = sorted((place / "photos").iterdir())[0]
    shutil.copy(first, place / "suite")
    (place / "S.parquet").write_bytes(make_fingerprints(str(place / "suite"), "S", 10**8))
    settings = ("iqa.metric=none", "rules.min_side=64", "rules.min_laplacian_variance=0", "shards.max_samples=4")
    settings += ("rules.max_laplacian_variance=1e9", f"select.forbid={place}/S.parquet")
    run_filter(place / "photos", place / "run", *settings, "shards.strip=gps,author", "shards.strip_unsupported=keep")
    return place / "run"


def test_what_is_noted_of_files_beside_the_shards_is_compared(stripped: Path, tmp_path: Path) -> None:
    """Copies of fingerprints, what was stripped, and a ledger of a stripped run."""
    folder, before = tmp_path / "run", tree(stripped)
    (copy,) = (name for name in before if name.startswith("firewall/"))
    pages = dict.fromkeys(("report.html",), "")
    for name, gone in (
        (copy, False),
        (copy, True),
        ("stripped.parquet", False),
        ("stripped.parquet", True),
        ("selected.parquet", False),
    ):
        shutil.copytree(stripped, folder)
        (folder / name).unlink() if gone else (folder / name).write_bytes(
            (stripped / name).read_bytes()[:-20] + bytes(20)
        )
        with pytest.raises(LucidFluxError, match=name.rpartition("/")[2]):
            check(verify_run, folder)
        check(verify_run, folder, repair=True)
        assert tree(folder) | pages == before | pages, name
        shutil.rmtree(folder)


def test_a_changed_value_anywhere_in_a_manifest_is_found(copied: tuple[Path, Path, Verify], stripped: Path) -> None:
    whole, folder, verify = copied
    if verify is verify_run:
        shutil.rmtree(folder)
        shutil.copytree(stripped, folder)
        whole = stripped
    about = json.loads((whole / "manifest.json").read_text())
    changes: list[dict[str, Any]] = [{"digests": {**about["digests"], "plan": "0" * 64}}, {"note": "not ours"}]
    changes += [{name: None} for name in ("firewall", "stripped") if name in about]
    for change in changes:
        (folder / "manifest.json").write_bytes(canonical_json({**about, **change}))
        with pytest.raises(VerificationError, match=r"manifest\.json was changed after it was written"):
            check(verify, folder)
        check(verify, folder, repair=True)
        assert (folder / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_changed_list_of_what_was_forgotten_is_refused(copied: tuple[Path, Path, Verify]) -> None:
    """It says what must not come back, and nothing else knows."""
    _, folder, verify = copied
    index = Folder(folder).read_table(f"shards/{sorted((folder / 'shards').glob('*.parquet'))[0].name}")
    key = index["key"][0].as_py()[:20]
    (forget if verify is verify_run else forget_pairs)(Folder(folder), [key])
    check(verify, folder)
    listed = (folder / "forgotten.txt").read_bytes()
    for content in (listed.replace(key.encode(), b"0" * 20), b"", None):
        if content is None:
            (folder / "forgotten.txt").unlink()
        else:
            (folder / "forgotten.txt").write_bytes(content)
        before = tree(folder)
        for repair in (False, True):
            with pytest.raises(VerificationError, match=r"forgotten\.txt is (not what it was|missing)"):
                check(verify, folder, repair)
        assert tree(folder) == before
    (folder / "forgotten.txt").write_bytes(listed)
    check(verify, folder)
    (folder / "manifest.json").write_bytes(b"{")
    check(verify, folder, repair=True)
    assert all(key.encode() not in path.read_bytes() for path in (folder / "shards").glob("*.tar"))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
