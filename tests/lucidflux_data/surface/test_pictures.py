"""degrade and metric: against numbers by hand, Pillow and the functions below them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lucidflux_data import degrade, metric
from lucidflux_data.degradation import opencv
from lucidflux_data.degradation.config import make_degrade_config
from lucidflux_data.degradation.plan import draw_plan, draw_whole
from lucidflux_data.errors import ConfigError, InputError, LucidFluxError
from lucidflux_data.iqa.niqe import niqe

# Neither blur nor noise nor JPEG that is seen: what is left is one resize of the whole image.
CLEAN = {
    "second": None,
    "first": {"blur_prob": 0, "resize_probs.keep": 1, "resize_probs.up": 0, "resize_probs.down": 0,
              "gaussian_prob": 1, "gaussian_sigma": (0, 0), "jpeg_quality": (100, 100)},
    "final": {"sinc_prob": 0, "resize_modes": ["area"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def photo(small: Path) -> np.ndarray:
    return np.asarray(Image.open(small / "flipped.png").convert("RGB"))  # 160 high, 224 wide


def test_without_its_steps_a_degradation_is_a_resize_of_the_whole_image(photo: np.ndarray) -> None:
    tall = np.ascontiguousarray(photo.transpose(1, 0, 2)[:-3, :-1])
    for image in (photo, tall):
        lq = degrade(image, "realesrgan-x4", seed=5, settings=CLEAN)
        height, width = (side - side % 4 for side in image.shape[:2])
        cut = Image.fromarray(image[:height, :width])
        wanted = np.asarray(cut.resize((width // 4, height // 4), Image.Resampling.BOX))
        assert lq.shape == wanted.shape
        assert np.abs(lq.astype(int) - wanted).mean() < 2
    assert degrade(photo, settings=CLEAN, scale=2).shape == (80, 112, 3)


def test_a_degradation_is_drawn_from_the_image_and_the_seed(photo: np.ndarray, small: Path) -> None:
    first = degrade(photo, "realesrgan-x4", seed=1)
    assert first.shape == (40, 56, 3)
    for same in (small / "flipped.png", str(small / "flipped.png"), Image.fromarray(photo), photo[None]):
        assert np.array_equal(degrade(same, "realesrgan-x4", seed=1), first)
    assert not np.array_equal(degrade(photo, "realesrgan-x4", seed=2), first)
    assert not np.array_equal(degrade(photo, "light", seed=1), first)


def test_a_square_has_the_plan_of_a_pair_and_sides_follow_from_each_side() -> None:
    for preset in ("realesrgan-x4", "light", "codeformer"):
        config = make_degrade_config(preset, ["size=192"])
        square = draw_plan("abc", 0, config)
        assert draw_whole("abc", 0, config, 192, 192) == square
        wide = draw_whole("abc", 0, config, 192, 384)
        for step, plain in zip(wide["steps"], square["steps"], strict=True):
            assert {name: value for name, value in step.items() if name != "width"} == plain
            assert step["op"] != "resize" or abs(step["width"] - 2 * step["side"]) <= 1
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    config = make_degrade_config("realesrgan-x4", ["size=192"])
    pairs = opencv.degrade(noise, draw_plan("abc", 3, config))
    assert np.array_equal(opencv.degrade(noise, draw_whole("abc", 3, config, 192, 192)), pairs)


def test_scores_are_those_of_the_functions_below(photo: np.ndarray, small: Path) -> None:
    other = np.asarray(Image.open(small / "00.jpg").convert("RGB"))
    score = metric("niqe")
    assert score.lower_is_better
    assert score([photo, other]).tolist() == [niqe(photo), pytest.approx(niqe(other), abs=0.2)]
    assert score(photo).tolist() == score(np.stack([photo])).tolist() == score(small / "flipped.png").tolist()
    near = np.clip(photo.astype(int) + 2, 0, 255).astype(np.uint8)
    error = np.mean((photo.astype(float) - near) ** 2)
    psnr = metric("psnr")([photo, photo], iter([near, photo]))
    assert psnr.dtype == np.float64
    assert psnr == pytest.approx([10 * np.log10(255**2 / error), 80], abs=1e-2)
    assert metric("ssim")(photo, photo) == pytest.approx([1])


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda p: metric("nique"), ConfigError, "did you mean niqe"),
        (lambda p: metric("niqe")(p[:50]), InputError, "image 0 has no niqe: NIQE needs at least 96 pixels"),
        (lambda p: metric("niqe")([p, p[:50]]), InputError, "image 1 has no niqe"),
        (lambda p: metric("niqe")(p, p), ConfigError, "niqe takes no references"),
        (lambda p: metric("psnr")(p), ConfigError, "psnr compares images with references: give both"),
        (lambda p: metric("psnr")([p, p], p), InputError, "there are more images than references"),
        (lambda p: metric("psnr")(p, p[:, :100]), InputError, "differ in size: 224x160 and 100x160"),
        (lambda p: metric("niqe")(p.astype(np.int64)), InputError, "uint8 in 0..255"),
        (lambda p: metric("niqe")("nowhere.png"), InputError, "nowhere.png is not there"),
        (lambda p: degrade(p, "lights"), ConfigError, "did you mean light"),
        (lambda p: degrade(p, size=128), ConfigError, "size=128 is a setting of pairs"),
        (lambda p: degrade(p, settings="crop.mode=area"), ConfigError, "crop.mode=area is a setting of pairs"),
        (lambda p: degrade(p, frst={"sigma": 1}), ConfigError, "first"),
        (lambda p: degrade(p[:90]), InputError, "an image of 224x90 is too small: its LQ has 24"),
        (lambda p: degrade([p, p]), InputError, "degrade takes one image, not several"),
        (lambda p: degrade(None), InputError, "not a NoneType"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_a_sentence_of_ours(
    photo: np.ndarray, ask: Callable[[np.ndarray], object], error: type[LucidFluxError], told: str
) -> None:
    with pytest.raises(error) as raised:
        ask(photo)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
