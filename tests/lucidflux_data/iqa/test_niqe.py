"""NIQE against pyiqa with the same parameters, and the failures that have a name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lucidflux_data.errors import ConfigError
from lucidflux_data.images import ImageError, decode
from lucidflux_data.iqa import metrics as iqa
from lucidflux_data.iqa import niqe, pyiqa_models


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    pyiqa = pytest.importorskip("pyiqa")
    scipy_io = pytest.importorskip("scipy.io")
    mean, covariance, _ = niqe.parameters()
    path = tmp_path_factory.mktemp("niqe") / "parameters.mat"
    scipy_io.savemat(path, {"mu_prisparam": mean[None], "cov_prisparam": covariance})
    model = pyiqa.create_metric("niqe", pretrained_model_path=str(path))
    return lambda image: model(pyiqa_models.image_tensor(image)).item()


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 HxWx3 with three equal channels. Of a colour, the luma of one pixel in a thousand is an exact half in
    float32, and whether torch rounds it up or down depends on the processor; grey is the same everywhere."""
    return np.repeat(np.rint(image.mean(axis=2) if image.ndim == 3 else image)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "camera"])
def test_photos_equal_pyiqa(name, oracle) -> None:
    import skimage.data

    image = getattr(skimage.data, name)()
    assert niqe.niqe(grey(image)) == pytest.approx(oracle(grey(image)), abs=1e-4)
    if image.ndim == 3:
        assert niqe.niqe(image) == pytest.approx(oracle(image), abs=5e-3)


def test_regions_of_one_colour_equal_pyiqa(oracle) -> None:
    """Blocks without a value on one side have no scale; they count with the smallest shape, as published."""
    import skimage.data

    image = skimage.data.astronaut()
    image[:200] = 255
    assert niqe.niqe(image) == pytest.approx(oracle(image), abs=1e-3)


def test_noise_and_odd_sizes_equal_pyiqa(oracle) -> None:
    rng = np.random.default_rng(1)
    for height, width in ((193, 300), (200, 195)):
        image = grey(rng.integers(0, 256, (height, width), dtype=np.uint8))
        assert niqe.niqe(image) == pytest.approx(oracle(image), abs=1e-3)


@pytest.mark.skipif(
    "LUCIDFLUX_CALIBRATION" not in os.environ,
    reason="LUCIDFLUX_CALIBRATION names no folder with the calibration images I03 I04 I06 I08 I19 (.bmp, TID2013)",
)
def test_calibration_images_have_the_official_values() -> None:
    """The authors' MATLAB values as IQA-PyTorch's ResultsCalibra lists them; NIQE differs from MATLAB's by how the
    half-size image is made (5% at most there, 0.3% on the undistorted-looking ones), PIQE by rounding."""
    official = {
        "niqe": (15.75363, 3.65492, 3.23548, 3.18403, 8.63520),
        "piqe": (100.00, 21.62, 35.86, 41.15, 76.95),
    }
    images = [
        decode((Path(os.environ["LUCIDFLUX_CALIBRATION"]) / f"{name}.bmp").read_bytes())
        for name in ("I03", "I04", "I06", "I08", "I19")
    ]
    assert iqa.load_metric("niqe")(images) == pytest.approx(official["niqe"], rel=0.06)
    assert iqa.load_metric("niqe")(images[1:4]) == pytest.approx(official["niqe"][1:4], rel=0.003)
    pytest.importorskip("pyiqa")
    assert iqa.load_metric("piqe")(images) == pytest.approx(official["piqe"], rel=0.001)


@pytest.mark.parametrize("shape", [(95, 500, 3), (500, 95, 3), (100, 100, 3)])
def test_too_small_is_a_named_failure(shape) -> None:
    with pytest.raises(ImageError) as caught:
        niqe.niqe(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    assert caught.value.reason == "iqa_not_finite"


def test_one_colour_is_a_named_failure_or_a_number() -> None:
    with pytest.raises(ImageError):
        niqe.niqe(np.full((300, 300, 3), 128, np.uint8))


def test_names() -> None:
    with pytest.raises(ConfigError, match="musiq"):
        iqa.metric("musik")
    assert iqa.lower_is_better("niqe")
    assert not iqa.lower_is_better("clipiqa")
    with pytest.raises(ConfigError, match="reference"):
        iqa.load_metric("psnr")


def test_psnr_and_piqe_work_offline(photo_paths) -> None:
    pytest.importorskip("pyiqa")
    import skimage.data
    from skimage.metrics import peak_signal_noise_ratio

    image = skimage.data.chelsea()
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 10, image.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(image, noisy)
    assert iqa.load_comparison("psnr")(noisy, image) == pytest.approx(expected, abs=1e-3)
    piqe = iqa.load_metric("piqe")
    assert piqe([image])[0] < piqe([noisy])[0]


def test_missing_weights_are_one_sentence() -> None:
    pytest.importorskip("pyiqa")
    with pytest.raises(ConfigError, match="--iqa niqe and --iqa none need nothing"):
        iqa.load_metric("musiq")


def test_one_array_is_one_image() -> None:
    """Taken for a batch, each of its rows would be an image that is too small."""
    image = np.random.default_rng(0).integers(0, 255, (192, 288, 3), dtype=np.uint8)
    score = iqa.load_metric("niqe")
    assert list(score(image)) == list(score([image])) == list(score(image[None])) == [niqe.niqe(image)]
    for wrong in (image[..., 0], image.astype(np.float32), [image[..., :2]]):
        with pytest.raises(ValueError, match="a metric takes uint8 HxWx3 RGB, one or some, not"):
            score(wrong)
