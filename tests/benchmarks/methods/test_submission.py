"""What is said of wrong, odd and dishonest submissions, each case on real files."""

from __future__ import annotations

import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import submission
from benchmarks.suites import suite as suites
from benchmarks.suites.ids import read_ids, read_pattern, select_ids
from lucidflux_data.errors import ConfigError, InputError


@pytest.fixture
def methods_folder(photos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photos / "methods", tmp_path / "methods"))


def inspected(photos: Path, *outputs: object, pattern: str | None = None) -> dict[str, submission.Method]:
    found = submission.find_methods([str(item) for item in outputs], read_pattern(pattern))
    suite = suites.ad_hoc_suite(photos / "lq", photos / "gt", set(), read_pattern(pattern))
    ids = submission.check_ids(found, suite)
    submission.inspect(found, suite, ids)
    return {method.name: method for method in found}


def reencode(path: Path, suffix: str, convert=lambda image: image, **options: object) -> Path:
    with Image.open(path) as image:
        image = convert(image.convert("RGB"))
    path.unlink()
    image.save(path.with_suffix(suffix), **options)
    return path.with_suffix(suffix)


def test_a_folder_a_folder_of_folders_and_a_name(methods_folder: Path) -> None:
    assert [m.name for m in submission.find_methods([str(methods_folder / "lanczos")])] == ["lanczos"]
    assert [m.name for m in submission.find_methods([str(methods_folder)])] == [
        *("bicubic", "blurred", "lanczos", "nearest")
    ]
    (named,) = submission.find_methods([f"ours={methods_folder / 'lanczos'}"])
    assert (named.name, len(named.paths["0"])) == ("ours", 6)


def test_seeds_are_subfolders(methods_folder: Path) -> None:
    for seed in ("1", "2"):
        shutil.copytree(methods_folder / "lanczos", methods_folder / "ours" / f"seed-{seed}")
    (method,) = submission.find_methods([str(methods_folder / "ours")])
    assert list(method.paths) == ["1", "2"]
    (methods_folder / "ours" / "stray.png").write_bytes(b"")
    with pytest.raises(InputError, match="beside its seed folders"):
        submission.find_methods([str(methods_folder / "ours")])


def test_no_method_and_no_seed_is_passed_over_for_its_name(methods_folder: Path) -> None:
    """Images one folder deeper than those of the other methods, and seeds that are called in another way."""
    (methods_folder / "logs").mkdir()
    (methods_folder / ".cache").mkdir()
    shutil.copytree(methods_folder / "lanczos", methods_folder / ".cache" / "lanczos")
    assert len(submission.find_methods([str(methods_folder)])) == 4
    shutil.copytree(methods_folder / "lanczos", methods_folder / "ours" / "seed_1")
    with pytest.raises(InputError, match=r"ours/seed_1 holds images.*call folders of seeds seed-1"):
        submission.find_methods([str(methods_folder)])
    shutil.copytree(methods_folder / "lanczos", methods_folder / "ours" / "seed-2")
    with pytest.raises(InputError, match="ours/seed_1 holds images and is no seed"):
        submission.find_methods([str(methods_folder)])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(["nowhere"], "not a folder"), (["empty"], "neither images nor folders"), (["a=."], "a name is for one")],
)
def test_folders_that_hold_no_method(methods_folder: Path, monkeypatch, outputs: list[str], message: str) -> None:
    (methods_folder / "empty").mkdir()
    monkeypatch.chdir(methods_folder)
    with pytest.raises(InputError, match=message):
        submission.find_methods(outputs)


def test_the_same_name_twice(methods_folder: Path) -> None:
    with pytest.raises(InputError, match="two methods are called lanczos"):
        submission.find_methods([str(methods_folder / "lanczos"), f"lanczos={methods_folder / 'bicubic'}"])


def test_unknown_and_double_ids(methods_folder: Path, photos: Path) -> None:
    lanczos = methods_folder / "lanczos"
    shutil.copyfile(lanczos / "coins.png", lanczos / "coin.png")
    with pytest.raises(InputError, match="lanczos has 1 images that ad-hoc does not have: coin"):
        inspected(photos, methods_folder)
    (lanczos / "coin.png").rename(lanczos / "coins.jpg")
    with pytest.raises(InputError, match="two images of id coins"):
        inspected(photos, methods_folder)


def test_a_suite_whose_ids_are_not_known_takes_as_many_as_it_has(methods_folder: Path) -> None:
    suite = suites.load_suite("reallr200", None)
    found = submission.find_methods([str(methods_folder / "lanczos")])
    assert len(submission.check_ids(found, suite)) == 6
    with pytest.raises(InputError, match="6 different ids, reallr200 has 5 images: prepare it"):
        submission.check_ids(found, replace(suite, count=5))


def test_images_of_an_unprepared_suite_from_folders(photos: Path, methods_folder: Path) -> None:
    suite = replace(suites.load_suite("reallr200", None), count=6)
    with_images = suites.with_folders(suite, photos / "lq", None)
    assert with_images.ids == tuple(sorted(path.stem for path in (photos / "lq").iterdir()))
    with pytest.raises(InputError, match="--inputs has astronaut, which is no image of reallq250"):
        suites.with_folders(suites.load_suite("reallq250", None), photos / "lq", None)


def test_a_missing_image_is_flagged(methods_folder: Path, photos: Path) -> None:
    (methods_folder / "lanczos" / "coins.png").unlink()
    assert "incomplete: 5/6 images" in inspected(photos, methods_folder)["lanczos"].flags


def test_one_wrong_size_is_a_hole_and_all_are_an_error(methods_folder: Path, photos: Path) -> None:
    for path in sorted((methods_folder / "lanczos").iterdir())[:1]:
        reencode(path, ".png", lambda image: image.resize((96, 96)))
    method = inspected(photos, methods_folder)["lanczos"]
    assert [file.reason for file in method.files["0"].values() if file.reason] == ["wrong_size"]
    assert "1 images cannot be scored: wrong_size" in method.flags
    for path in (methods_folder / "bicubic").iterdir():
        reencode(path, ".png", lambda image: image.resize((96, 96)))
    with pytest.raises(InputError, match=r"bicubic: all 6 images have the wrong size \(96x96"):
        inspected(photos, methods_folder)


def test_codec_mode_and_rotation_are_flagged(methods_folder: Path, photos: Path) -> None:
    paths = sorted((methods_folder / "lanczos").iterdir())
    exif = Image.Exif()
    exif[0x0112] = 3
    reencode(paths[0], ".jpg", quality=75)
    reencode(paths[1], ".webp", quality=80)
    reencode(paths[2], ".png", lambda image: image.convert("RGBA"))
    reencode(paths[3], ".png", lambda image: image.convert("L"))
    reencode(paths[4], ".png", exif=exif)
    flags = inspected(photos, methods_folder)["lanczos"].flags
    assert {"lossy codec (JPEG): 1 images", "lossy codec (WebP): 1 images"} <= set(flags)
    assert {"mode RGBA: 1 images", "mode L: 1 images", "rotated by EXIF: 1 images"} <= set(flags)
    for number, suffix in ((4, ".tif"), (5, ".png")):
        reencode(paths[number], suffix, save_all=True, append_images=[Image.new("RGB", (192, 192))])
    told = "more than one frame, of which the first is scored: 2 images"
    assert told in inspected(photos, methods_folder)["lanczos"].flags
    reencode(paths[1].with_suffix(".webp"), ".webp", lossless=True)
    flags = inspected(photos, methods_folder)["lanczos"].flags
    assert [flag for flag in flags if "codec" in flag] == ["lossy codec (JPEG): 1 images"]


def test_unreadable_files_have_their_reason(methods_folder: Path, photos: Path) -> None:
    paths = sorted((methods_folder / "lanczos").iterdir())
    paths[0].write_text("no image")
    paths[1].write_bytes(b"")
    files = inspected(photos, methods_folder)["lanczos"].files["0"]
    assert [files[path.stem].reason for path in paths[:3]] == ["not_an_image", "not_an_image", None]


def test_copies_of_bicubic_and_of_each_other_are_flagged(methods_folder: Path, photos: Path) -> None:
    shutil.copytree(methods_folder / "lanczos", methods_folder / "ours")
    for path in sorted((methods_folder / "ours").iterdir()):
        reencode(path, ".bmp")  # other bytes, the same pixels
    methods = inspected(photos, methods_folder)
    assert "identical to lanczos" in methods["ours"].flags
    assert "identical to ours" in methods["lanczos"].flags
    assert "identical to bicubic upscaling" in methods["bicubic"].flags
    for name in ("lanczos", "nearest", "blurred"):
        assert "identical to bicubic upscaling" not in methods[name].flags


def test_what_is_near_to_bicubic_says_how_near_and_is_not_called_identical(tmp_path: Path) -> None:
    """A JPEG of it, and Lanczos of smooth pictures, over which every method is within a level of every other."""
    places = {name: tmp_path / name for name in ("lq", "methods/bicubic", "methods/lanczos", "methods/jpeg")}
    for place in places.values():
        place.mkdir(parents=True)
    lq, bicubic, lanczos, jpeg = places.values()
    far = []
    for number in range(3):
        y, x = np.mgrid[:16, :16]
        small = Image.fromarray(np.stack([3 * x + 2 * y + number, 5 * x + 90, 4 * y + 80], 2).astype(np.uint8))
        small.save(lq / f"{number}.png")
        large = [small.resize((64, 64), how) for how in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)]
        for image, place in zip(large, (bicubic, lanczos), strict=True):
            image.save(place / f"{number}.png")
        large[0].save(jpeg / f"{number}.jpg", quality=98, subsampling=0)
        far.append(np.abs(np.subtract(*(np.asarray(image, float) for image in large))).mean())
    found = submission.find_methods([str(tmp_path / "methods")])
    suite = suites.ad_hoc_suite(lq, None, set())
    submission.inspect(found, suite, submission.check_ids(found, suite))
    flags = {method.name: [flag for flag in method.flags if "bicubic" in flag] for method in found}
    assert flags["bicubic"] == ["identical to bicubic upscaling"]
    assert flags["lanczos"] == [f"{np.mean(far):.2g} of 255 levels from bicubic upscaling, on average over 3 images"]
    assert "of 255 levels from bicubic upscaling" in flags["jpeg"][0]


def test_a_copy_in_part_says_of_how_many_images(tmp_path: Path) -> None:
    """A few are looked at first; what differs among the others is not passed over."""
    for name in ("lq", "methods/bicubic", "methods/ours", "methods/few"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
        large = small.resize((32, 32), Image.Resampling.BICUBIC)
        small.save(tmp_path / "lq" / f"{number}.png")
        large.save(tmp_path / "methods" / "bicubic" / f"{number}.png")
        mine = large.transpose(Image.Transpose.ROTATE_180) if number == 2 else large
        mine.save(tmp_path / "methods" / "ours" / f"{number}.bmp")
        if number < 3:
            large.save(tmp_path / "methods" / "few" / f"{number}.png")
    found = submission.find_methods([str(tmp_path / "methods")])
    suite = suites.ad_hoc_suite(tmp_path / "lq", None, set())
    submission.inspect(found, suite, submission.check_ids(found, suite))
    flags = {method.name: [flag for flag in method.flags if "identical" in flag] for method in found}
    assert flags["ours"] == ["identical to bicubic upscaling in 7 of 8 images", "identical to bicubic in 7 of 8 images"]
    assert flags["few"] == ["identical to bicubic upscaling", "identical to bicubic"]
    assert flags["bicubic"] == [
        *("identical to bicubic upscaling", "identical to few in 3 of 8 images"),
        "identical to ours in 7 of 8 images",
    ]


def test_a_contaminated_checkpoint_and_several_seeds(methods_folder: Path, photos: Path) -> None:
    about = {"method": "ours[step-9]", "contaminated": ["reallq250"]}
    (methods_folder / "lanczos" / "method.json").write_text(json.dumps(about))
    methods = inspected(photos, methods_folder)
    assert methods["ours[step-9]"].flags[0] == "contaminated: the checkpoint was validated on reallq250"
    assert "one seed" in methods["ours[step-9]"].flags


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "method.json: input should be a table"),
        ('{"method": 3}', "method: input should be a valid string"),
        ('{"contaminated": "reallq250"}', "contaminated: input should be a list"),
        ('{"seconds_per_image": "fast"}', "seconds_per_image: input should be a valid number"),
    ],
)
def test_a_method_file_of_ones_own_is_refused_in_a_sentence(text: str, why: str, methods_folder: Path) -> None:
    """A word in the place of a list would be flagged letter by letter."""
    (methods_folder / "lanczos" / "method.json").write_text(text)
    with pytest.raises(InputError) as refused:
        submission.find_methods([str(methods_folder)])
    assert why in str(refused.value)
    assert str(refused.value).startswith(str(methods_folder / "lanczos" / "method.json"))
    assert "_Shown" not in str(refused.value)


def test_the_wrong_size_everywhere_is_an_error_that_says_which_one_is_right(photos: Path) -> None:
    """The inputs in the place of the outputs."""
    found = submission.find_methods([str(photos / "lq")])
    suite = suites.ad_hoc_suite(None, photos / "gt", set())
    with pytest.raises(InputError, match="48x48; ad-hoc asks for the size of the reference"):
        submission.inspect(found, suite, submission.check_ids(found, suite))


def test_accents_in_either_form_are_one_id(photos: Path, tmp_path: Path) -> None:
    for folder, form in (("gt", "NFC"), ("mac", "NFD")):
        (tmp_path / folder).mkdir()
        name = unicodedata.normalize(form, "Café 日本")
        shutil.copyfile(photos / "gt" / "coins.png", tmp_path / folder / f"{name}.png")
    suite = suites.ad_hoc_suite(None, tmp_path / "gt", set())
    assert submission.check_ids(submission.find_methods([str(tmp_path / "mac")]), suite) == ("Café 日本",)


def test_suites_say_which_size_they_want(methods_folder: Path, photos: Path) -> None:
    suite = replace(suites.ad_hoc_suite(photos / "lq", None, set()), output_size=(1024, 1024), name="reallq250")
    found = submission.find_methods([str(methods_folder)])
    with pytest.raises(InputError, match="asks for 1024x1024"):
        submission.inspect(found, suite, submission.check_ids(found, suite))


def rename_all(folder: Path, before: str = "", behind: str = "") -> None:
    for path in sorted(folder.iterdir()):
        path.rename(folder / f"{before}{path.stem}{behind}{path.suffix}")


def test_every_seed_is_compared_with_every_other(methods_folder: Path, photos: Path) -> None:
    """Copies in a second seed, of another method, of bicubic and of the first seed."""
    for seed, of in (("1", "nearest"), ("2", "lanczos"), ("3", "lanczos"), ("4", "bicubic")):
        shutil.copytree(methods_folder / of, methods_folder / "ours" / f"seed-{seed}")
    for path in sorted((methods_folder / "ours" / "seed-3").iterdir()):
        reencode(path, ".bmp")
    methods = inspected(photos, methods_folder)
    assert [flag for flag in methods["ours"].flags if "identical" in flag] == [
        *("seed 4: identical to bicubic upscaling", "seeds 2 and 3 are identical", "seed 4: identical to bicubic"),
        *("seeds 2, 3: identical to lanczos", "seed 1: identical to nearest"),
    ]
    assert "identical to ours" in methods["lanczos"].flags
    assert not [flag for flag in methods["blurred"].flags if "identical" in flag]


def test_a_copy_with_few_images_is_found_where_it_has_them(methods_folder: Path, photos: Path) -> None:
    """Only of images that both have: the others of an even sample would not tell."""
    (methods_folder / "few").mkdir()
    shutil.copyfile(methods_folder / "lanczos" / "camera.png", methods_folder / "few" / "camera.png")
    assert "identical to lanczos" in inspected(photos, methods_folder)["few"].flags


@pytest.mark.parametrize(("before", "behind"), [("", "_out"), ("sr-", ""), ("x4_", " (1)")])
def test_names_that_differ_by_a_piece_are_told_with_the_pattern(
    before: str, behind: str, methods_folder: Path, photos: Path
) -> None:
    rename_all(methods_folder / "lanczos", before, behind)
    with pytest.raises(InputError) as refused:
        inspected(photos, methods_folder)
    pattern = str(refused.value).split("--id-pattern '")[1].split("'")[0]
    assert set(inspected(photos, methods_folder, pattern=pattern)["lanczos"].files["0"]) == set(
        inspected(photos, methods_folder / "nearest")["nearest"].files["0"]
    )
    both = submission.find_methods([str(methods_folder / name) for name in ("nearest", "lanczos")])
    every = {id_ for method in both for id_ in method.paths["0"]}
    with pytest.raises(InputError, match="--id-pattern"):  # where the outputs alone name the ids
        submission.check_ids(both, suites.ad_hoc_suite(None, None, every))


def test_names_that_are_simply_others_get_no_hint(methods_folder: Path, photos: Path) -> None:
    for number, path in enumerate(sorted((methods_folder / "lanczos").iterdir())):
        path.rename(path.with_name(f"picture{number}.png"))
    with pytest.raises(InputError) as refused:
        inspected(photos, methods_folder)
    assert "--id-pattern" not in str(refused.value)


def test_a_pattern_names_the_id(methods_folder: Path, photos: Path) -> None:
    """As in the documentation, for names of digits; what does not fit keeps its name, and two of one id are refused."""
    for number, name in enumerate(sorted(path.stem for path in (photos / "gt").iterdir())):
        (methods_folder / "lanczos" / f"{name}.png").rename(methods_folder / "lanczos" / f"{number:03d}_out.png")
        (methods_folder / "nearest" / f"{name}.png").rename(methods_folder / "nearest" / f"{number:03d}.png")
    pattern = read_pattern(r"(?P<id>\d+)_out")
    found = submission.find_methods([str(methods_folder / name) for name in ("lanczos", "nearest")], pattern)
    assert [set(method.paths["0"]) for method in found] == [{f"{k:03d}" for k in range(6)}] * 2
    shutil.copyfile(methods_folder / "lanczos" / "003_out.png", methods_folder / "lanczos" / "003.png")
    with pytest.raises(InputError, match="two images of id 003"):
        submission.find_methods([str(methods_folder / "lanczos")], pattern)


@pytest.mark.parametrize(("text", "why"), [("(", "no regular expression"), (r"(\d+)_out", "no group named id")])
def test_a_pattern_that_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read_pattern(text)


def test_a_file_of_ids(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes("\ufeffb\r\n\n  a \r\nb\n".encode())
    assert read_ids(file) == ("b", "a")
    assert select_ids(("a", "b", "c"), read_ids(file), None, True, "s") == ("a", "b")
    with pytest.raises(InputError, match=r"--ids names b, which is no image of s \(1 such\)"):
        select_ids(("a", "c"), read_ids(file), None, True, "s")
    assert select_ids(("a", "c"), read_ids(file), None, False, "s") == ("a", "b")
    for content, why in ((b"\n \n", "names no id"), (b"\xff\xfe", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=why):
            read_ids(file)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_ids(tmp_path / "none.txt")
