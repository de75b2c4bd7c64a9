"""Sizes are upright everywhere: references, inputs and outputs that EXIF rotates, in each of its eight ways."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import submission
from benchmarks.methods.staging import stage
from benchmarks.metrics import score
from benchmarks.suites import suite as suites
from benchmarks.suites.prepare import prepare
from lucidflux_data.errors import InputError
from lucidflux_data.images import decode

WIDE, TALL = (48, 32), (32, 48)  # stored (width, height) of the inputs
ROWS, COLUMNS = np.mgrid[:32, :48]
PHOTO = np.stack([5 * COLUMNS, 7 * ROWS, 3 * COLUMNS + 2 * ROWS], -1).astype(np.uint8)  # no turn of it is like another


def save(path: Path, pixels: np.ndarray, orientation: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """lq/ and gt/ (four times as large) of eight photos, stored alike and to be turned in eight ways; JPEG and PNG."""
    large = np.asarray(Image.fromarray(PHOTO).resize((192, 128), Image.Resampling.BICUBIC))
    for way in range(1, 9):
        kind = "jpg" if way % 2 else "png"
        save(tmp_path / "lq" / f"{way}.{kind}", PHOTO, way)
        save(tmp_path / "gt" / f"{way}.{kind}", large, way)
    return tmp_path


def methods_of(phone: Path) -> list[submission.Method]:
    suite = suites.ad_hoc_suite(phone / "lq", phone / "gt", set())
    found = submission.find_methods([str(phone / "ours")])
    submission.inspect(found, suite, submission.check_ids(found, suite))
    return found


def upright(path: Path) -> np.ndarray:
    from PIL import ImageOps

    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def test_upright_outputs_of_rotated_photos_have_the_right_size(phone: Path) -> None:
    (phone / "ours").mkdir()
    for path in (phone / "lq").iterdir():
        image = Image.fromarray(upright(path))
        large = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
        large.save(phone / "ours" / f"{path.stem}.png")
    (method,) = methods_of(phone)
    assert [file.reason for file in method.files["0"].values()] == [None] * 8
    assert {(file.width, file.height) for file in method.files["0"].values()} == {(192, 128), (128, 192)}
    assert "identical to bicubic upscaling" in method.flags
    items = score.make_items(score.MetricSpec("psnr"), [method], suites.ad_hoc_suite(None, phone / "gt", set()))
    scorer = score.load_scorer(score.MetricSpec("psnr"), "cpu")
    rows = [score.score_item(item, scorer) for item in items]
    assert len(rows) == 8
    assert min(row["value"] or 0 for row in rows) > 30  # the same picture; turned otherwise it would be some 8 dB


def test_outputs_that_are_rotated_themselves_are_taken_upright(phone: Path) -> None:
    for path in (phone / "gt").iterdir():
        target = phone / "ours" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    (method,) = methods_of(phone)
    assert [file.reason for file in method.files["0"].values()] == [None] * 8
    assert "rotated by EXIF: 7 images" in method.flags


def test_as_stored_they_are_the_wrong_size_where_sides_change_places(phone: Path) -> None:
    for path in (phone / "gt").iterdir():
        with Image.open(path) as image:
            (phone / "ours").mkdir(exist_ok=True)
            Image.fromarray(np.asarray(image.convert("RGB"))).save(phone / "ours" / f"{path.stem}.png")
    (method,) = methods_of(phone)
    wrong = {id_ for id_, file in method.files["0"].items() if file.reason == "wrong_size"}
    assert wrong == {"5", "6", "7", "8"}


def test_prepare_compares_and_records_upright_sizes(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(phone / "cache"))
    known = suites.load_suite("realsr", None)
    wanted = replace(known, count=4, ids=None, input_size=TALL, output_size=(128, 192), pins={},
                     layout={"lq": ["lq"], "gt": ["gt"]})  # fmt: skip
    for role in ("lq", "gt"):
        for path in list((phone / role).iterdir()):
            if int(path.stem) < 5:
                os.rename(path, phone / f"{role}-{path.name}")  # these lie on their side
    place = phone.with_name("suites") / "realsr"
    prepare(wanted, phone, place)
    record = json.loads((place / "suite.json").read_text())
    sizes = {(image["width"], image["height"]) for roles in record["images"].values() for image in roles.values()}
    assert sizes == {TALL, (128, 192)}
    with pytest.raises(InputError, match="lq/5 is 32x48, not 48x32"):
        prepare(replace(wanted, input_size=WIDE, output_size=(192, 128)), phone, place)


@pytest.mark.parametrize("how", ["link", "png"])
def test_what_is_staged_for_other_repositories_is_upright_without_exif(how: str, phone: Path) -> None:
    stage({path.stem: path for path in (phone / "lq").iterdir()}, phone / "staged", how)
    for path in (phone / "lq").iterdir():
        (staged,) = (phone / "staged").glob(f"{path.stem}.*")
        with Image.open(staged) as image:  # as a program reads it that knows of no EXIF
            pixels = np.asarray(image.convert("RGB"))
        assert np.array_equal(pixels, decode(path.read_bytes())), path.name
        assert staged.is_symlink() == (path.stem == "1" and how == "link")


def test_fid_reads_upright_pictures(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyiqa is given: it knows of no EXIF."""
    seen: dict[str, tuple[int, int]] = {}

    def look(outputs: str, references: str, _: str) -> float:
        for folder in (outputs, references):
            for path in Path(folder).iterdir():
                with Image.open(path) as image:
                    seen[f"{Path(folder).name}/{path.stem}"] = image.size
        return 1.0

    monkeypatch.setattr(score.pyiqa_models, "frechet_distance", look)
    for path in (phone / "gt").iterdir():
        save(phone / "ours" / path.name, np.asarray(Image.open(path).convert("RGB")), int(path.stem))
    (method,) = methods_of(phone)
    suite = suites.ad_hoc_suite(phone / "lq", phone / "gt", set())
    assert score.score_set(method, "0", suite, "cpu")["value"] == 1.0
    turned = {name for name, size in seen.items() if size == (128, 192)}
    assert turned == {f"{role}/{way}" for role in ("out", "gt") for way in (5, 6, 7, 8)}
    assert len(seen) == 16
