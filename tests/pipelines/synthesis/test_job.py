"""Pairs as a user makes them: bytes, resume, replay, readers, accounting, damage, wrong calls."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lucidflux_data.degradation import opencv as degrade_cv2
from lucidflux_data.degradation import plan as degrade_plan
from lucidflux_data.errors import ConfigError, InputError, Interrupted, LucidFluxError, VerificationError
from lucidflux_data.images import decode
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import replay as pairs_replay
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.pairs.card import make_card
from lucidflux_data.pairs.config import make_pairs_config, pairs_label
from lucidflux_data.storage.folder import Folder, absolute_url
from pipelines.demo.data import make_pairs as make_demo_pairs
from pipelines.execution.progress import Progress
from pipelines.synthesis.job import synthesize
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import run_counted
from tests.support.run_files import rewrite_run

COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))
SMALL = ["--size", "192", "--set", "shards.max_samples=8"]
PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket", "ihc")


class Backwards:
    """Runs the units of a job in this process, the last one first."""

    description = "this process, backwards"
    num_gpus = 0

    def map(self, units: Any, job: Any, *_: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
        for unit in reversed(list(units)):
            yield unit, run_counted(job, unit)

    def close(self) -> None:
        """Nothing was opened."""


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file but the events."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(source: Path, out: Path, *settings: str, preset: str = "realesrgan-x4", backend: str = "cv2") -> Folder:
    """Pairs in this process, at the size of the tests."""
    small = ["degrade.size=192", "shards.max_samples=8", *settings]
    config = make_pairs_config(preset, settings=small)
    about = pairs_run.make_run(config, pairs_label(preset, config), backend, [absolute_url(str(source))], None)
    folder = Folder(out)
    pairs_run.start(folder, about)
    synthesize(folder, about, Backwards(), Progress(quiet=True))
    return folder


def records(folder: Folder) -> list[dict[str, Any]]:
    entries = json.loads(folder.read("manifest.json"))["shards"]
    return [record for entry in entries for record in pair_samples.read_records(folder, entry["name"])]


@pytest.fixture(scope="module")
def photos(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a copy of one, one that is exactly as large as a crop, one too small, and files that are no photo."""
    folder = tmp_path_factory.mktemp("photos")
    for path in photo_paths:
        if path.stem in PHOTOS:
            shutil.copyfile(path, folder / path.name)
    astronaut = cv2.imread(str(folder / "astronaut.png"))
    shutil.copyfile(folder / "coffee.png", folder / "twin.png")
    cv2.imwrite(str(folder / "whole.png"), astronaut[100:292, 150:342])
    cv2.imwrite(str(folder / "small.png"), astronaut[:100, :300])
    (folder / "broken.jpg").write_bytes(cv2.imencode(".jpg", astronaut)[1].tobytes()[:9000])
    (folder / "text.jpg").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def quiet(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every other way of running must equal."""
    out = tmp_path_factory.mktemp("quiet") / "pairs"
    make(photos, out)
    return out


@pytest.fixture(scope="module")
def hq_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed filter run of the same photos."""
    run = tmp_path_factory.mktemp("hq") / "run"
    options = ["--iqa", "none", "--executor", "local", "--set", "rules.min_laplacian_variance=20"]
    done = subprocess.run([COMMAND, "filter", photos, "--out", run, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run


def test_every_candidate_is_accounted_for(quiet: Path, photos: Path) -> None:
    summary = pairs_run.summary(Folder(quiet))
    assert summary["candidates"] == len(list(photos.iterdir()))
    assert summary["rejected"] == {"duplicate": 1, "too_small": 1}
    assert summary["failed"] == {"not_an_image": 1, "truncated": 1}
    assert summary["used"] == summary["candidates"] - 4
    assert summary["samples"] == 4 * summary["used"]
    names = {record["source_key"] for record in records(Folder(quiet))}
    assert names == {path.name for path in photos.iterdir()} - {"small.png", "text.jpg", "broken.jpg", "twin.png"}


@pytest.mark.parametrize("options", [("local", "1"), ("local", "3"), ("ray", "2")])
def test_the_bytes_do_not_depend_on_how_it_ran(options: tuple[str, str], quiet: Path, photos: Path, tmp_path: Path):
    where = ["--executor", options[0], "--num-cpus", options[1]]
    command = [COMMAND, "synthesize", photos, "--out", tmp_path / "pairs", *SMALL, *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "pairs") == tree(quiet)


@pytest.mark.parametrize("shards", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_killed_and_resumed_equals_uninterrupted(shards: int, quiet: Path, photos: Path, tmp_path: Path) -> None:
    """SIGKILL to the driver once some shards are there; the same command goes on from them."""
    out = tmp_path / "pairs"
    command = [COMMAND, "synthesize", str(photos), "--out", str(out), *SMALL, "--executor", "local", "--num-cpus", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    place = out / "shards" if shards else out / "inputs"
    deadline = time.monotonic() + 60
    while len(list(place.glob("*.parquet"))) < max(1, shards) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    there = {path: path.stat().st_mtime_ns for path in out.glob("shards/*.tar")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert tree(out) == tree(quiet)
    assert sum(path.stat().st_mtime_ns == before for path, before in there.items()) >= len(there) - 1


HQ = ("png", "jxl", "webp", "jpeg:90", "ref")


@pytest.mark.parametrize("sharpen", ["none", "target", "input-only"])
@pytest.mark.parametrize("hq", HQ)
def test_pairs_replay_equal_and_verify(hq: str, sharpen: str, hq_run: Path, tmp_path: Path) -> None:
    folder = make(hq_run, tmp_path / "pairs", f"hq={hq}", f"degrade.sharpen_hq={sharpen}", "variants=4")
    keys = [record["key"] for record in records(folder)]
    chosen = np.random.default_rng(len(hq)).permutation(keys)[:20].tolist()
    assert len(chosen) == 20
    for key in chosen:
        result, data = pairs_replay.replay_pair(folder, key)
        assert result["equal"], result
        assert data == pair_samples.find_sample(folder, key)["lq.png"]
    assert verify_pairs(folder, True, False, Backwards(), Progress(quiet=True))["problems"] == 0


def test_pairs_of_before_go_on_with_the_encoder_that_they_were_begun_with(photos: Path, tmp_path: Path) -> None:
    """Their run.json knows no encoder; what is made again has the bytes of OpenCV, as what is there."""
    made, begun = tmp_path / "whole", tmp_path / "begun"
    make(photos, made, "hq_encoder=opencv")
    shutil.copytree(made, begun)
    about = json.loads((begun / "run.json").read_text())
    assert about["config"].pop("hq_encoder") == "opencv"
    rewrite_run(begun, about)
    shards_of(begun)[0].unlink()
    (begun / "manifest.json").unlink()
    small = ["--size", "192", "--set", "shards.max_samples=8", "--executor", "local", "--num-cpus", "1"]
    command = [COMMAND, "synthesize", photos, "--out", begun, "--preset", "realesrgan-x4", *small]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in shards_of(begun)] == [path.read_bytes() for path in shards_of(made)]
    other = subprocess.run([*command, "--set", "hq_encoder=libdeflate"], capture_output=True, text=True)
    assert other.returncode == 2
    assert "holds other pairs" in other.stderr


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.tar"))


def test_the_lq_is_the_plan_applied_to_the_stored_hq_and_differs_by_variant(quiet: Path) -> None:
    folder = Folder(quiet)
    seen = set()
    for record in records(folder)[:8]:
        members = pair_samples.find_sample(folder, record["key"])
        lq, hq = decode(members["lq.png"]), decode(members["hq.png"])
        assert hq.shape == (192, 192, 3)
        assert lq.shape == (48, 48, 3)
        np.testing.assert_array_equal(degrade_cv2.degrade(hq, record["plan"]), lq)
        small = cv2.resize(hq, (48, 48), interpolation=cv2.INTER_AREA)
        assert abs(small.mean() - lq.mean()) < 10, "it is the same picture"
        seen.add(lq.tobytes())
    assert len(seen) == 8


def test_original_bytes_are_kept_where_nothing_was_cut_or_flipped(quiet: Path, photos: Path) -> None:
    whole = [record for record in records(Folder(quiet)) if record["source_key"] == "whole.png"]
    assert {record["hq"]["format"] for record in whole} == {"original", "png"}
    for record in whole:
        stored = pair_samples.find_sample(Folder(quiet), record["key"])["hq.png"]
        untouched = stored == (photos / "whole.png").read_bytes()
        assert untouched == (not record["plan"]["flip"]) == (record["hq"]["format"] == "original")
        pixels = decode((photos / "whole.png").read_bytes())
        np.testing.assert_array_equal(decode(stored), pixels[:, ::-1] if record["plan"]["flip"] else pixels)


def test_crops_are_where_the_record_says_and_are_drawn_again(quiet: Path, photos: Path, tmp_path: Path) -> None:
    for record in records(Folder(quiet)):
        left, top, width, height = record["cut"]["box"]
        pixels = decode((photos / record["source_key"]).read_bytes())
        assert [pixels.shape[1], pixels.shape[0]] == record["cut"]["source"]
        crop = pixels[top : top + height, left : left + width]
        crop = crop[:, ::-1] if record["plan"]["flip"] else crop
        stored = decode(pair_samples.find_sample(Folder(quiet), record["key"])["hq.png"])
        np.testing.assert_array_equal(stored, crop)
    strict = make(photos, tmp_path / "strict", "degrade.crop.min_laplacian_variance=1500", "variants=2")
    tries = {(record["cut"]["tries"], record["cut"]["passed"]) for record in records(strict)}
    assert {number for number, _ in tries} >= {1, 4}
    assert (4, False) in tries
    area = make(photos, tmp_path / "area", "degrade.crop.mode=area", "degrade.crop.cover=0.8,1", "variants=2")
    for record in records(area):
        assert record["cut"]["box"][2] >= 0.8 * min(record["cut"]["source"]) - 1
    padded = make(photos, tmp_path / "padded", "degrade.crop.too_small=reflect", "variants=1")
    (small,) = [record for record in records(padded) if record["source_key"] == "small.png"]
    pixels = decode(pair_samples.find_sample(padded, small["key"])["hq.png"])
    pixels = pixels[:, ::-1] if small["plan"]["flip"] else pixels
    np.testing.assert_array_equal(pixels[100:192], pixels[98:6:-1])


def test_webdataset_reads_three_members_of_every_sample(quiet: Path) -> None:
    import webdataset

    manifest = json.loads((quiet / "manifest.json").read_text())
    samples = list(webdataset.WebDataset(str(quiet / "shards" / manifest["urls"]), shardshuffle=False))
    assert len(samples) == manifest["samples"]
    assert len(manifest["shards"]) > 1
    keys = [sample["__key__"] for sample in samples]
    assert keys == sorted(keys)
    for sample in samples:
        assert {name for name in sample if not name.startswith("__")} == {"hq.png", "lq.png", "json"}
        record = json.loads(sample["json"])
        assert record["key"] == sample["__key__"] == f"{record['plan']['hq_key']}_{record['plan']['variant']:02d}"
    of_one_image = [entry["samples"] for entry in manifest["shards"]]
    assert all(count % 4 == 0 for count in of_one_image), "variants of an image stay together"


@pytest.mark.parametrize(
    ("size", "scale", "preset"), [(510, 3, "realesrgan-x4"), (99, 3, "light"), (250, 2, "lucidflux")]
)
def test_a_size_may_suit_its_own_scale_alone(size: int, scale: int, preset: str, data_command, tmp_path: Path) -> None:
    asked = ["--size", size, "--set", f"degrade.scale={scale}", "--preset", preset, "--dry-run", "--json"]
    told = data_command("synthesize", tmp_path, "--out", tmp_path / "pairs", *asked)
    assert told.returncode == 0, told.stderr
    about = json.loads(told.stdout)
    assert (about["config"]["degrade"]["size"], about["config"]["degrade"]["scale"]) == (size, scale)
    assert f"scale={scale}" in about["label"]
    assert "size=" not in about["label"]


def test_the_torch_dataset_gives_the_pixels_of_the_shards(hq_run: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from lucidflux_data import RealESRGANPairs

    folder = make(hq_run, tmp_path / "pairs", "degrade.seed=7", "variants=2", preset="lucidflux")
    dataset = RealESRGANPairs(hq_run, "lucidflux", seed=7, settings=["size=192"])
    assert isinstance(dataset, torch.utils.data.Dataset)
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, num_workers=2, persistent_workers=True)
    stored = {record["key"] for record in records(folder)}
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for batch in loader:
            for number, key in enumerate(batch["key"]):
                name = f"{key}_{int(batch['variant'][number]):02d}"
                members = pair_samples.find_sample(folder, name)
                for part in ("hq", "lq"):
                    pixels = batch[part][number].numpy().transpose(1, 2, 0)
                    np.testing.assert_array_equal(pixels, decode(members[f"{part}.png"]))
                stored.discard(name)
    assert not stored
    skipped = RealESRGANPairs(hq_run, settings=["size=400"]).skipped
    assert set(skipped.values()) == {"too_small"}


def test_sources_of_the_dataset_are_strings_or_paths_one_or_several(photo_paths: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from lucidflux_data import RealESRGANPairs

    chosen = [path for path in photo_paths if path.stem in PHOTOS]
    for number, path in enumerate(chosen[:2]):
        (tmp_path / str(number)).mkdir()
        shutil.copy(path, tmp_path / str(number))
    folders = [tmp_path / "0", tmp_path / "1"]
    found = [
        [row["key"] for row in RealESRGANPairs(asked, settings=["size=192"]).rows]
        for asked in (folders, tuple(map(str, folders)), [folders[0], str(folders[1])], tmp_path, str(tmp_path))
    ]
    assert all(keys == found[0] for keys in found)
    assert len(found[0]) == 2
    assert len(RealESRGANPairs([folders[0]], settings=["size=192"])) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_does_not_end_the_epoch(photo_paths: list[Path], tmp_path: Path, workers: int) -> None:
    torch = pytest.importorskip("torch")
    from lucidflux_data import RealESRGANPairs

    for path in photo_paths:
        if path.stem in PHOTOS:
            shutil.copy(path, tmp_path)
    whole = RealESRGANPairs(tmp_path, settings=["size=192"])
    order = [row["key"] for row in whole.rows]
    cut = Path(whole.rows[-1]["uri"].removeprefix("file://"))
    data = cut.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    for strict in (whole, RealESRGANPairs(tmp_path, settings=["size=192"])):
        with pytest.raises(InputError, match=cut.name):
            list(torch.utils.data.DataLoader(strict, batch_size=1))
    for dataset in (RealESRGANPairs(tmp_path, settings=["size=192"], on_error="skip"),):
        keys = [row["key"] for row in dataset.rows]
        bad = next(number for number, row in enumerate(dataset.rows) if row["uri"].endswith(cut.name))
        expected = [keys[(bad + 1) % len(keys)] if number == bad else key for number, key in enumerate(keys)]
        assert len(keys) == len(order)
        for epoch in range(2):
            loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=workers)
            assert [batch["key"][0] for batch in loader] == expected
            assert dataset.replaced == epoch + 1
    with pytest.raises(ConfigError, match="skip or raise"):
        RealESRGANPairs(tmp_path, settings=["size=192"], on_error="ignore")


@pytest.mark.parametrize("kind", ["png", "jpg", "palette"])
def test_a_grey_image_is_stored_with_three_channels(tmp_path: Path, kind: str, photo_paths: list[Path]) -> None:
    from PIL import Image

    image = Image.open(next(path for path in photo_paths if path.stem == "astronaut")).crop((100, 100, 292, 292))
    source = tmp_path / "source"
    source.mkdir()
    image.convert("P" if kind == "palette" else "L").save(source / f"one.{'png' if kind == 'palette' else kind}")
    image.convert("RGB").save(source / "colour.png")
    pairs = make(source, tmp_path / "pairs", "variants=1", "degrade.crop.flip_prob=0")
    found = {}
    for record in records(pairs):
        members = pair_samples.find_sample(pairs, record["key"])
        (hq,) = (data for name, data in members.items() if name.startswith("hq."))
        for data in (hq, members["lq.png"]):
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[2:] == (3,)
        found[record["source_key"]] = (record["hq"]["format"], hq)
    colour = (source / "colour.png").read_bytes()
    assert found.pop("colour.png") == ("original", colour)
    ((name, (stored, hq)),) = found.items()
    assert stored == "png"
    np.testing.assert_array_equal(decode(hq), decode((source / name).read_bytes()))


def test_info_and_view(quiet: Path, hq_run: Path, data_command, tmp_path: Path) -> None:
    card = json.loads(data_command("info", quiet, "--json").stdout)
    assert card["samples"] == card["looked_at"] == 28
    assert set(card["member_bytes"]) == {"hq.png", "json", "lq.png"}
    assert card["licences"] == {"not recorded": 7}
    assert not any(row["flagged"] for row in card["parameters"])
    assert "distributed as the preset says" in data_command("info", quiet).stdout
    assert card["checked_against"] == []
    run = tmp_path / "run"
    shutil.copytree(hq_run, run)
    about = json.loads((run / "run.json").read_text())
    about["config"]["select"]["forbid"] = ["file:///suites/realsr"]
    rewrite_run(run, about)
    of_run = make_card(make(run, tmp_path / "pairs", "variants=1", "hq=ref"), None)
    assert of_run["checked_against"] == [], "its manifest does not say so"
    assert of_run["not_checked_against"] == ["file:///suites/realsr"]
    assert of_run["parameters"] != card["parameters"]
    shown = data_command("view", quiet, "--out", tmp_path / "page.html", "--limit", "6")
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure>") == 6
    assert page.count("data:image/jpeg") == 12
    assert "http:" not in page
    assert "https:" not in page
    assert len(page) < 1_000_000


def test_the_demo_goes_on_to_verified_pairs(hq_run: Path, tmp_path: Path) -> None:
    told = make_demo_pairs(Folder(hq_run), tmp_path / "pairs", Backwards(), Progress(quiet=True))
    assert told["verified"] == told["samples"] > 0
    assert told["samples"] % 4 == 0
    assert told["rejected"] == {"too_small": 2}, "whole.png and small.png are under the 256 pixels of the demo"
    assert (tmp_path / "pairs" / "view.html").stat().st_size > 10_000


def test_damage_is_found_and_repaired(quiet: Path, tmp_path: Path, data_command) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(quiet, pairs)
    tar = sorted((pairs / "shards").glob("*.tar"))[1]
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    (pairs / "shards" / "pairs-000099.tar").write_bytes(b"stray")
    found = data_command("verify", pairs)
    assert found.returncode == 6
    assert tar.name in found.stderr
    assert "pairs-000099.tar is in no manifest" in found.stderr
    here = Backwards(), Progress(quiet=True)
    verify_pairs(Folder(pairs), True, True, *here)
    assert (pairs / "stray" / "shards" / "pairs-000099.tar").read_bytes() == b"stray"
    shutil.rmtree(pairs / "stray")
    assert tree(pairs) == tree(quiet)
    (pairs / "inputs" / "unit-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(VerificationError, match="is damaged"):
        verify_pairs(Folder(pairs), False, False, *here)
    verify_pairs(Folder(pairs), False, True, *here)
    assert tree(pairs) == tree(quiet)


def test_deep_verification_draws_the_plans_again(quiet: Path, tmp_path: Path) -> None:
    """A run.json that states another seed: every hash is right, no plan is."""
    shutil.copytree(quiet, tmp_path / "pairs")
    folder = Folder(tmp_path / "pairs")
    run = json.loads(folder.read("run.json"))
    run["config"]["degrade"]["seed"] = 5
    rewrite_run(tmp_path / "pairs", run)
    with pytest.raises(VerificationError, match="its plan is not the one that"):
        verify_pairs(folder, True, False, Backwards(), Progress(quiet=True))


def test_damaged_or_missing_hq_is_one_sentence_and_nothing_half_published(hq_run: Path, tmp_path: Path, data_command):
    for harm in ("flip", "cut", "remove"):
        run, out = tmp_path / harm, tmp_path / f"pairs-{harm}"
        shutil.copytree(hq_run, run)
        (tar,) = (run / "shards").glob("*.tar")
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 255
        tar.write_bytes(data if harm == "flip" else data[: len(data) // 3])
        if harm == "remove":
            tar.unlink()
        with pytest.raises(
            InputError, match=r"hq-000000\.tar#\w+\.\w+ (has changed: it is damaged|was listed but cannot be read)"
        ):
            make(run, out)
        assert not (out / "manifest.json").exists()
        assert not list(out.rglob("*.part"))
    done = data_command("synthesize", run, "--out", out, *SMALL, "--executor", "local", "--num-cpus", "1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_a_pointer_whose_hq_is_gone(hq_run: Path, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    shutil.copytree(hq_run, run)
    folder = make(run, tmp_path / "pairs", "hq=ref", "variants=1")
    assert all(len(pair_samples.find_sample(folder, record["key"])) == 2 for record in records(folder))
    key = records(folder)[0]["key"]
    next((run / "shards").glob("*.tar")).unlink()
    replayed = data_command("replay", folder, key, "--out", tmp_path / "again")
    assert replayed.returncode == 3
    assert f"the HQ of {key} is gone" in replayed.stderr
    checked = data_command("verify", folder, "--deep")
    assert checked.returncode == 6
    assert "is gone" in checked.stderr


def test_a_replay_that_differs_says_by_what_it_was_made(quiet: Path, tmp_path: Path, monkeypatch, data_command) -> None:
    folder, key = Folder(quiet), records(Folder(quiet))[5]["key"]
    assert data_command("replay", quiet, key, "--out", tmp_path / "again").returncode == 0
    assert (tmp_path / "again" / f"{key}.lq.png").read_bytes() == pair_samples.find_sample(folder, key)["lq.png"]
    members = pair_samples.find_sample(folder, key)
    record = json.loads(members["json"])
    assert record["versions"]["decoder"] == "4"
    assert {"imagecodecs", "pillow", "pillow_heif", "tifffile"} <= record["versions"].keys()
    assert json.loads((quiet / "run.json").read_text())["decoder_version"] == 4
    record["versions"]["opencv"] = "4.9.0"
    lq = decode(members["lq.png"]).copy()
    lq[3, 4] ^= 1
    changed = members | {
        "json": json.dumps(record).encode(),
        "lq.png": cv2.imencode(".png", lq[..., ::-1])[1].tobytes(),
    }
    monkeypatch.setattr(pair_samples, "find_sample", lambda *_: changed)
    result, _ = pairs_replay.replay_pair(folder, key)
    assert not result["equal"]
    assert "1 pixels differ, by 1 levels" in result["difference"]
    assert "made by cv2 (numba" in result["difference"]
    assert "opencv 4.9.0" in result["difference"]
    for number in (2, 1):
        record["versions"].pop("decoder")
        if number > 1:  # decoder 1 noted no number
            record["versions"]["decoder"] = str(number)
        changed["json"] = json.dumps(record).encode()
        result, _ = pairs_replay.replay_pair(folder, key)
        assert result["decoder"] == f"made by decoder {number}, this is decoder 4"
        assert f"made by decoder {number}, cv2 (numba" in result["difference"]
    monkeypatch.setattr(degrade_plan, "PLAN_VERSION", 0)
    with pytest.raises(InputError, match="newer"):
        pairs_replay.replay_pair(folder, key)


def test_a_full_disk_leaves_nothing_half_published(photos: Path, tmp_path: Path, monkeypatch) -> None:
    plain, calls = os.fsync, []

    def fails_late(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fails_late)
    with pytest.raises(Interrupted, match="no space left"):
        make(photos, tmp_path / "pairs")
    assert not (tmp_path / "pairs" / "manifest.json").exists()
    assert not list((tmp_path / "pairs").rglob("*.part"))
    monkeypatch.undo()
    make(photos, tmp_path / "pairs")
    make(photos, tmp_path / "other")
    assert tree(tmp_path / "pairs") == tree(tmp_path / "other")


def test_wrong_calls_are_one_sentence(quiet: Path, photos: Path, hq_run: Path, tmp_path: Path, data_command) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    full.mkdir()
    (full / "thesis.txt").write_text("not pairs")
    out = ["--out", str(tmp_path / "out"), "--executor", "local"]
    from cli import data_app

    calls: dict[tuple[str, ...], tuple[int, str]] = {
        ("synthesize", str(photos), *out, "--backend", "cuda"): (2, "there is no backend 'cuda'"),
        ("synthesize", str(photos), *out, "--preset", "bsrgan"): (2, "no preset 'bsrgan'"),
        ("synthesize", str(photos), *out, "--set", "degrade.first.kernel_probs.iso=1"): (2, "sum to 1, not to 1.55"),
        ("synthesize", str(photos), *out, "--hq", "tiff"): (2, "png, jxl, webp, jpeg:Q"),
        ("synthesize", str(empty), *out): (3, "holds no images"),
        ("synthesize", str(tmp_path / "gone"), *out): (3, "is not there"),
        ("synthesize", str(quiet), *out): (2, "holds pairs already"),
        ("synthesize", str(hq_run), str(photos), *out): (2, "either one run"),
        ("synthesize", str(photos), "--out", str(full), "--executor", "local"): (2, "is not empty"),
        ("synthesize", str(photos), "--out", str(quiet), *SMALL, "--seed", "3"): (2, "choose another --out"),
        ("synthesize", str(photos), "--out", str(full / "thesis.txt" / "pairs"), "--executor", "local"): (
            5,
            "cannot be written to",
        ),
        ("synthesize", str(photos), "--out", str(tmp_path / "large"), "--size", "4096", "--executor", "local"): (
            3,
            "too_small",
        ),
        ("replay", str(quiet), "nobody_00", "--out", str(tmp_path)): (3, "is no pair of"),
        ("info", str(hq_run)): (3, "not a folder of pairs"),
        ("view", str(empty)): (3, "not a run folder"),
    }
    for arguments, (code, words) in calls.items():
        with pytest.raises(LucidFluxError, match=re.escape(words)) as caught:
            data_app(arguments, standalone_mode=False)
        assert caught.value.exit_code == code, arguments
    failed = data_command("synthesize", photos, *out, *SMALL, "--variants", "1", "--max-failed", "0.1")
    assert failed.returncode == 4, failed.stderr
    planned = data_command("synthesize", photos, "--out", tmp_path / "dry", "--dry-run", "--json")
    assert json.loads(planned.stdout)["config"]["degrade"]["size"] == 1024
    told = data_command("synthesize", photos, "--out", tmp_path / "dry", "--dry-run", *SMALL).stdout
    assert {"variants: 4", "HQ: 192 px", "LQ: 48 px"} <= set(told.splitlines())
    assert f"lucidflux-data synthesize {photos} --out {tmp_path / 'dry'} " in told
    assert not (tmp_path / "dry").exists()


def test_a_missing_extra_is_named(monkeypatch) -> None:
    from lucidflux_data.degradation.backends import load_backend

    monkeypatch.delitem(sys.modules, "lucidflux_data.degradation.basicsr", raising=False)
    monkeypatch.setitem(sys.modules, "basicsr.data.degradations", None)
    with pytest.raises(ConfigError, match=r"lucidflux\[reference\]"):
        load_backend("reference")


def test_the_other_backends_make_pairs_that_verify(photos: Path, tmp_path: Path, quiet: Path) -> None:
    pytest.importorskip("lucidflux_data.degradation.basicsr", reason="needs the extra `reference`")
    stored = {record["key"]: record for record in records(Folder(quiet))}
    for backend in ("torch", "reference"):
        folder = make(photos, tmp_path / backend, "variants=1", backend=backend)
        assert verify_pairs(folder, True, False, Backwards(), Progress(quiet=True))["problems"] == 0
        for record in records(folder):
            assert record["versions"]["backend"] == backend
            assert record["plan"] == stored[record["key"]]["plan"]
        key = records(folder)[0]["key"]
        assert pairs_replay.replay_pair(folder, key)[0]["equal"]
        apart = decode(pair_samples.find_sample(folder, key)["lq.png"]).astype(int)
        apart -= decode(pair_samples.find_sample(Folder(quiet), key)["lq.png"])
        assert np.abs(apart).mean() < 12
