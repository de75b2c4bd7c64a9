"""`from lucidflux_model import restore`: the same pixels as the command, of whatever holds a picture."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lucidflux_data.errors import ConfigError, InputError, LucidFluxError
from lucidflux_data.storage.folder import Folder
from lucidflux_model import restore
from lucidflux_model.inference import restoring
from lucidflux_model.network.build import build_random
from lucidflux_model.weights.published import save_lucidflux
from pipelines.restoration import job
from pipelines.restoration.config import RestoreConfig
from pipelines.restoration.records import list_remaining
from pipelines.restoration.unit import RestoreUnit
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def files(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sizes; one is turned by its EXIF."""
    folder = tmp_path_factory.mktemp("files")
    photo = Image.open(next(path for path in photo_paths if path.stem == "chelsea")).convert("RGB")
    photo.crop((100, 40, 148, 72)).save(folder / "a.png")
    turned = photo.getexif()
    turned[0x0112] = 6
    photo.crop((10, 40, 42, 56)).save(folder / "b.jpg", exif=turned)
    return [folder / "a.png", folder / "b.jpg"]


def test_the_pixels_are_those_of_the_command(files: list[Path], tmp_path: Path) -> None:
    config = RestoreConfig.model_validate({"model": {"name": "tiny"}, "steps": 2, "upscale": 2})
    folder = Folder(tmp_path / "out")
    rows = job.start(folder, [str(path) for path in files], config)
    assert len(list(job.run_here(folder, list_remaining(folder, rows, 1), RestoreUnit(config)))) == 2
    results = restore(files, model="tiny", steps=2, upscale=2)
    assert [result.size for result in results] == [(96, 64), (32, 64)]
    for path, result in zip(files, results, strict=True):
        assert np.array_equal(np.asarray(result), np.asarray(Image.open(tmp_path / "out" / f"{path.stem}.png")))


def test_whatever_holds_the_picture(files: list[Path]) -> None:
    (expected,) = restore(files[0], model="tiny", output_type="np")
    assert expected.shape == (32, 48, 3)
    assert expected.dtype == np.float32
    pixels = np.asarray(Image.open(files[0]))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for same in (str(files[0]), Image.open(files[0]), pixels, tensor, tensor[None] / 255, [pixels]):
        (found,) = restore(same, model="tiny", output_type="np")
        assert np.array_equal(found, expected)
    mixed = restore((one for one in [files[0], pixels[:16], tensor]), model="tiny", output_type="np")
    assert [one.shape for one in mixed] == [(32, 48, 3), (16, 48, 3), (32, 48, 3)]
    assert np.array_equal(mixed[2], expected)
    (other,) = restore(pixels, model="tiny", seed=1, output_type="np")
    assert not np.array_equal(other, expected)
    assert restore([], model="tiny") == []


def test_weights_that_were_written_again_are_loaded_again(files: list[Path], tmp_path: Path) -> None:
    """Of the same size and time: the model of the call before is not that of the file."""
    results, trained, options = (
        [],
        tmp_path / "lucidflux.safetensors",
        {"model": "tiny", "steps": 1, "output_type": "np"},
    )
    for seed in (1, 2, 1):
        parts = build_random("tiny", seed=seed, parts=("conditioner", "connector"))
        save_lucidflux(parts["conditioner"], parts["connector"], trained)
        os.utime(trained, ns=(1, 1))
        results.append(restore(files[0], trained=trained, **options)[0])
    assert not np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_what_cannot_be_is_a_sentence(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for images, options, kind, told in (
        (files, {}, ConfigError, "needs --weights"),
        (files, {"weights": tmp_path}, InputError, "no model_index.json"),
        (tmp_path / "none.png", {"model": "tiny"}, InputError, "none.png is not there"),
        (tmp_path / "pipe.png", {"model": "tiny"}, InputError, "pipe.png cannot be used: it is no regular file"),
        (tmp_path / "zero.png", {"model": "tiny"}, InputError, "zero.png cannot be used: it is no regular file"),
        (tmp_path / "text.png", {"model": "tiny"}, InputError, "text.png cannot be used: no image format"),
        (files, {"model": "tiny", "tiles": 64}, ValueError, "restore has no option 'tiles': did you mean tile?"),
        (files, {"model": "tiny", "tile": 100}, ValueError, "multiples of 64"),
        (files, {"model": "tiny", "tile": 64}, ValueError, "overlap is the smaller, not 64 and 128"),
        (files, {"model": "tiny", "output_type": "pt"}, ValueError, "pil or np, not 'pt'"),
        (files, {"model": "tiny", "steps": 0}, ValueError, "at least 1"),
        (files, {"model": "tiny", "steps": 2.5}, ValueError, "num_inference_steps is a whole number, not 2.5"),
        (files, {"model": "tiny", "tile": 64.0}, ValueError, "tile is a whole number, not 64.0"),
        (files, {"model": "tiny", "guidance": float("nan")}, ValueError, "guidance_scale is a finite number, not nan"),
        (files, {"model": "tiny", "height": 33.3}, ValueError, "height and width are whole numbers"),
        (np.zeros((8, 8, 2), np.uint8), {"model": "tiny"}, ValueError, "not uint8 of 8x8x2"),
        (5, {"model": "tiny"}, ValueError, "not a int"),
    ):
        with pytest.raises(kind, match=told) as raised:
            restore(images, **options)
        assert isinstance(raised.value, LucidFluxError)


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(restoring).failed == 0
    assert doctest.testmod(restoring).attempted > 0


def test_the_package_loads_no_torch_until_it_is_asked() -> None:
    code = "import sys, lucidflux_model; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
