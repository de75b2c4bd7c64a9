"""Executors of plans against BasicSR itself, OpenCV, torch and theory: kernels, steps, noise, JPEG, registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from lucidflux_data.degradation import convolution as filters
from lucidflux_data.degradation import noise
from lucidflux_data.degradation import on_torch as degrade_torch
from lucidflux_data.degradation import opencv as degrade_cv2
from lucidflux_data.degradation.config import make_degrade_config
from lucidflux_data.degradation.kernels import make_kernel, separated, trimmed
from lucidflux_data.degradation.plan import draw_plan
from lucidflux_data.images import decode

reference = pytest.importorskip("lucidflux_data.degradation.basicsr", reason="needs the extra `reference`")
basicsr = reference.import_basicsr().degradations
torch.set_num_threads(1)
STREAM = "0123456789abcdef" * 2
KERNELS: list[dict[str, Any]] = [
    {"type": "iso", "size": 21, "sigma_x": 2.3},
    {"type": "iso", "size": 7, "sigma_x": 0.2},
    {"type": "aniso", "size": 15, "sigma_x": 0.4, "sigma_y": 2.9, "rotation": 2.1},
    {"type": "generalized_iso", "size": 13, "sigma_x": 1.7, "beta": 0.6},
    {"type": "generalized_aniso", "size": 21, "sigma_x": 3.0, "sigma_y": 0.9, "rotation": -1.2, "beta": 3.5},
    {"type": "plateau_iso", "size": 9, "sigma_x": 1.1, "beta": 1.0},
    {"type": "plateau_aniso", "size": 19, "sigma_x": 0.9, "sigma_y": 2.2, "rotation": 0.7, "beta": 1.8},
    {"type": "sinc", "size": 17, "cutoff": 0.9},
    {"type": "sinc", "size": 7, "cutoff": 3.1},
]


@pytest.fixture(scope="module")
def photo(photo_paths: list[Path]) -> np.ndarray:
    (path,) = [path for path in photo_paths if path.stem == "astronaut"]
    return np.ascontiguousarray(decode(path.read_bytes())[40:360, 60:380])  # 320x320, textured


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("parameters", KERNELS, ids=lambda kernel: f"{kernel['type']}{kernel['size']}")
def test_kernels_equal_those_of_basicsr(parameters: dict[str, Any]) -> None:
    size, kind = parameters["size"], parameters["type"]
    if kind == "sinc":
        theirs = basicsr.circular_lowpass_kernel(parameters["cutoff"], size)
    else:
        sigma_x = parameters["sigma_x"]
        arguments = [size, sigma_x, parameters.get("sigma_y", sigma_x), parameters.get("rotation", 0)]
        options = {"isotropic": not kind.endswith("aniso")}
        if kind in ("iso", "aniso"):
            theirs = basicsr.bivariate_Gaussian(*arguments, **options)
        elif kind.startswith("generalized"):
            theirs = basicsr.bivariate_generalized_Gaussian(*arguments, parameters["beta"], **options)
        else:
            theirs = basicsr.bivariate_plateau(*arguments, parameters["beta"], **options)
    ours = make_kernel(parameters)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert ours.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(ours).sum() - np.abs(trimmed(ours)).sum() <= 1e-6 * np.abs(ours).sum()
    assert (separated(ours) is not None) == (kind == "iso")


@pytest.mark.parametrize("parameters", KERNELS, ids=lambda kernel: f"{kernel['type']}{kernel['size']}")
def test_blur_equals_opencv(parameters: dict[str, Any], photo: np.ndarray) -> None:
    kernel = make_kernel(parameters)
    for image in (photo[:150, :171], photo[:40, :33].astype(np.float32) - 20):
        expected = cv2.filter2D(image.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(filters.blur(np.ascontiguousarray(image), kernel) - expected).max() < 1.5e-3


def test_blur_takes_kernels_without_any_symmetry(photo: np.ndarray) -> None:
    sobel = np.outer([1.0, 2, 1], [-1, 0, 1]) / 8 + np.outer([0, 0, 1], [0, 1, 0])
    for kernel in (sobel, np.outer([1.0, 2, 4], [0.1, 0.2, 0.4]), np.random.default_rng(0).random((13, 13)) / 169):
        expected = cv2.filter2D(photo.astype(np.float64), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(filters.blur(photo, kernel) - expected).max() < 2e-3


@pytest.mark.parametrize("side", [1, 77, 160, 319, 320, 321, 480])
def test_area_resize_is_adaptive_pooling(side: int, photo: np.ndarray) -> None:
    tensor = torch.from_numpy(photo.transpose(2, 0, 1).copy()).double()
    expected = torch.nn.functional.adaptive_avg_pool2d(tensor, (side, side + 3)).permute(1, 2, 0).numpy()
    pooled = filters.resize_area(photo, side, side + 3, whole_pixels=True)
    assert np.abs(pooled - expected).max() < 1e-3
    np.testing.assert_array_equal(
        pooled, filters.resize_area(photo.astype(np.float32), side, side + 3, whole_pixels=True)
    )


@pytest.mark.parametrize("side", [1, 77, 160, 319, 320])
def test_exact_area_is_that_of_opencv_downwards(side: int, photo: np.ndarray) -> None:
    expected = cv2.resize(photo.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    assert np.abs(filters.resize_area(photo, side, side) - expected).max() < 1e-2


def test_exact_area_upwards_keeps_the_mean_of_every_source_pixel(photo: np.ndarray) -> None:
    """Enlarged 7/5 and reduced again over the same boxes: five source pixels lie exactly under seven results."""
    large = filters.resize_area(photo, 448, 448)
    back, five = filters.resize_area(large, 64, 64), filters.resize_area(photo, 64, 64)
    assert np.abs(back - five).max() < 1e-3


def test_usm_equals_basicsr(photo: np.ndarray) -> None:
    from basicsr.utils.img_process_util import usm_sharp

    theirs = usm_sharp(photo.astype(np.float32) / 255) * 255
    ours = filters.usm(photo)
    apart = np.abs(ours - theirs)
    assert np.quantile(apart, 0.999) < 0.05, "single pixels may fall on the other side of the mask's threshold"
    assert apart.max() < 0.5
    assert np.abs(ours - photo).max() > 5


@pytest.mark.parametrize("align", ["exact", "reference"])
def test_each_step_and_the_whole_equal_the_reference(align: str, photo: np.ndarray) -> None:
    """Blur 1e-3, resizes 0.01 levels, the whole of a plan without noise and JPEG one level after rounding."""
    config = make_degrade_config("realesrgan-x4", ["size=320", f"align={align}", "sharpen_hq=none"])
    seen = set()
    for number in range(40):
        plan = draw_plan(f"{number:020x}", 0, config)
        plan["steps"] = [step for step in plan["steps"] if step["op"] in ("blur", "resize")]
        tensor = reference.to_tensor(photo)
        for step in plan["steps"]:
            ours = degrade_cv2.apply(step, reference.to_bgr_levels(tensor), plan)
            tensor = reference.apply(step, tensor, plan)
            assert np.abs(ours - reference.to_bgr_levels(tensor)).max() < (1e-3 if step["op"] == "blur" else 1e-2)
            seen.add(step.get("mode", step["op"]))
        whole = degrade_cv2.degrade(photo, plan).astype(int) - reference.degrade(photo, plan)
        assert np.abs(whole).max() <= 1
        assert np.mean(whole != 0) < 1e-3
        assert degrade_cv2.degrade(photo, plan).shape == (80, 80, 3)
    assert seen == {"blur", "area", "bilinear", "bicubic"}


@pytest.mark.parametrize("quality", [30.0, 60.0, 92.0])
def test_jpeg_is_near_diffjpeg_in_either_orientation(quality: float, photo: np.ndarray) -> None:
    step = {"op": "jpeg", "quality": quality}
    grey = np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for image, least in ((grey, 38), (photo, 30)):
        out = {}
        for table in ("codec", "reference"):
            plan = {"plan_version": 1, "jpeg": table, "steps": [step]}
            out[table] = degrade_cv2.degrade(image, plan), reference.degrade(image, plan)
            assert psnr(*out[table]) > least, table
        if image is grey:
            assert psnr(out["codec"][0], out["reference"][1]) < psnr(*out["codec"]) - 5, "BasicSR's table is transposed"


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("sigma", [1.0, 13.0, 30.0])
def test_gaussian_noise_has_the_moments_of_theory(sigma: float, gray: bool) -> None:
    image = np.full((400, 401, 3), 127.5, np.float32)
    noise.add_gaussian_noise(image, sigma, gray, STREAM)
    field = (image - 127.5).reshape(-1, 3)
    n = field.size if not gray else len(field)
    assert abs(field.mean()) < 4.5 * sigma / np.sqrt(n)
    assert field.std() == pytest.approx(sigma, rel=4.5 / np.sqrt(2 * n) + (0.002 if sigma == 30 else 0))
    standard = field[:, 0] / sigma
    assert np.mean(standard**4) == pytest.approx(3, abs=0.1), "clipping and the last slice cost little"
    correlation = np.corrcoef(field.T)
    if gray:
        np.testing.assert_allclose(correlation, 1, atol=1e-4)
    else:
        assert np.abs(correlation - np.eye(3)).max() < 4.5 / np.sqrt(len(field))
    lag = np.corrcoef(field[:-1, 0], field[1:, 0])[0, 1]
    assert abs(lag) < 4.5 / np.sqrt(len(field))


@pytest.mark.parametrize("values", [1, 2, 64, 256])
def test_poisson_cells_are_the_poisson_distribution(values: int) -> None:
    """Every table summed back into probabilities, against scipy's."""
    import scipy.stats

    cells, starts = noise.poisson_cells(values)
    for level in (0, 1, 17, 128, 255):
        own = (cells[level] >> 8) / 2**24
        probabilities = own / 256
        np.add.at(probabilities, cells[level] & 255, (1 - own) / 256)
        outcomes = starts[level] + np.arange(256)
        exact = scipy.stats.poisson.pmf(outcomes, level / 255 * values)
        assert np.abs(probabilities - exact).max() < 2e-7


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_has_the_variance_of_each_level(gray: bool) -> None:
    """Var = scale^2 * level * 255 / vals: 64 levels in the image, so vals is 64."""
    levels = np.repeat(np.arange(64) * 2 + 60, 4096).astype(np.float32)
    image = np.repeat(levels[:, None], 3, axis=1).reshape(512, 512, 3)
    before = image.copy()
    noise.add_poisson_noise(image, 0.8, gray, STREAM)
    field = (image - before).reshape(64, 4096, 3)
    for row, level in zip(field, np.arange(64) * 2 + 60, strict=True):
        variance = 0.8**2 * level * 255 / 64
        n = row.size if not gray else len(row)
        assert abs(row.mean()) < 5 * np.sqrt(variance / n)
        assert row.var() == pytest.approx(variance, rel=5 * np.sqrt(2.2 / n))
    correlation = np.corrcoef(field.reshape(-1, 3).T)
    np.testing.assert_allclose(correlation, np.ones((3, 3)) if gray else np.eye(3), atol=0.02)


@pytest.mark.parametrize("op", ["gaussian_noise", "poisson_noise"])
@pytest.mark.parametrize("gray", [False, True])
def test_noise_on_a_photo_has_the_strength_of_basicsr_per_level(op: str, gray: bool, photo: np.ndarray) -> None:
    step = {"op": op, "sigma": 20.0, "scale": 1.5, "gray": gray, "stream": STREAM}
    plan = {"jpeg": "codec"}
    bgr = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
    ours = degrade_cv2.apply(step, bgr.astype(np.float32), plan) - bgr
    theirs = reference.to_bgr_levels(reference.apply(step, reference.to_tensor(photo), plan)) - bgr
    for low in range(40, 220, 20):
        where = (bgr.min(axis=2) >= low) & (bgr.max(axis=2) < low + 40)
        if where.sum() < 1500:
            continue
        mine, other = ours[where], theirs[where]
        assert mine.std() == pytest.approx(other.std(), rel=0.08)
        assert abs(mine.mean() - other.mean()) < 6 * mine.std() / np.sqrt(where.sum())
        across = [np.corrcoef(field[:, 0], field[:, 2])[0, 1] for field in (mine, other)]
        assert across[0] == pytest.approx(across[1], abs=0.1)


@pytest.mark.parametrize("settings", [[], ["align=reference", "jpeg=reference", "sharpen_hq=input-only"]])
def test_torch_has_the_noise_of_cv2_and_its_pixels_within_the_stated_tolerance(
    settings: list[str], photo: np.ndarray
) -> None:
    config = make_degrade_config("realesrgan-x4", ["size=320", *settings])
    apart = []
    for number in range(12):
        plan = draw_plan(f"{number:020x}", 0, config)
        image = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
        for step in plan["steps"]:
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            tensor = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None].float()
            theirs = degrade_torch.apply(step, tensor, plan)[0].permute(1, 2, 0).numpy()[..., ::-1]
            image = degrade_cv2.apply(step, image.copy(), plan)
            difference = np.abs(image - theirs)
            if step["op"].endswith("_noise"):
                assert difference.max() < 1e-3
            elif step["op"] == "jpeg":
                assert difference.mean() < 1.0
            elif step["op"] != "usm":
                assert difference.max() < 1e-2
        apart.append(np.abs(degrade_cv2.degrade(photo, plan).astype(int) - degrade_torch.degrade(photo, plan)).mean())
        plan["steps"] = [step for step in plan["steps"] if step["op"] in ("blur", "resize")]
        plain = degrade_cv2.degrade(photo, plan).astype(int) - degrade_torch.degrade(photo, plan)
        assert np.abs(plain).max() <= 1
    assert np.mean(apart) < 2.0


def waves(side: int) -> np.ndarray:
    """A two-dimensional chirp, wavelengths from 160 down to 80 pixels, uint8 grey RGB."""
    place = np.arange(side)
    phase = 2 * np.pi * (place / 160 + place**2 * (1 / 80 - 1 / 160) / (2 * side))
    pattern = np.sin(phase)[:, None] + np.sin(phase + 1)[None, :]
    return np.repeat(np.rint(127.5 + 50 * pattern).astype(np.uint8)[..., None], 3, axis=2)


def drift(hq: np.ndarray, lq: np.ndarray) -> np.ndarray:
    """Displacement of the LQ's content at the right and bottom edge, in HQ pixels: an affine fit by Gauss-Newton."""
    scale = hq.shape[0] // lq.shape[0]
    target = lq[..., 1].astype(np.float64)
    source = cv2.resize(hq[..., 1], target.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float64)
    side = len(target)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    terms = np.stack([np.ones_like(x), (x + 0.5) / side, (y + 0.5) / side])
    fit = np.zeros((2, 3))
    inner = (slice(12, -12), slice(12, -12))
    for _ in range(6):
        u, v = np.tensordot(fit, terms, axes=1)
        moved = map_coordinates(source, [y + v, x + u], order=3, mode="mirror")  # cv2.remap rounds places to 1/32
        gradients = np.gradient(moved)[::-1]
        design = [(gradient * term)[inner].ravel() for gradient in gradients for term in terms]
        design += [(moved * term)[inner].ravel() for term in terms]  # blur lowers the contrast, more so of short waves
        design += [np.ones(design[0].size)]
        solution = np.linalg.lstsq(np.stack(design, axis=1), (target - moved)[inner].ravel(), rcond=None)[0]
        fit += solution[:6].reshape(2, 3)
    return -scale * np.array([fit[0, 0] + fit[0, 1] + fit[0, 2] / 2, fit[1, 0] + fit[1, 2] + fit[1, 1] / 2])


@pytest.mark.parametrize("align", ["exact", "reference"])
def test_registration(align: str) -> None:
    """`exact` is registered to 0.1 HQ pixels; `reference` has the drift of a scale factor: H - floor(H s) / s."""
    side = 1024
    hq = waves(side)
    config = make_degrade_config("realesrgan-x4", [f"size={side}", f"align={align}"])
    largest = 0.0
    for number in range(20):
        plan = draw_plan(f"{number:020x}", 0, config)
        plan["steps"] = [step for step in plan["steps"] if step["op"] in ("blur", "resize")]
        first = next(step for step in plan["steps"] if step["op"] == "resize")
        if any(step.get("sampling") == "pool" for step in plan["steps"]):
            continue  # torch's pooling moves content by up to half a pixel of its stage, in no affine way
        known = side - first["side"] / first["scale"] if align == "reference" else 0.0
        measured = drift(hq, degrade_cv2.degrade(hq, plan))
        assert np.abs(measured - known).max() < 0.1, (plan["steps"], measured, known)
        largest = max(largest, known)
    assert largest > 1 if align == "reference" else largest == 0
