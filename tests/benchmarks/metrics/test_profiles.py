"""PSNR, SSIM, NIQE and PIQE against peers and official calibration values; profiles, fingerprints."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.metrics import profiles as metrics
from benchmarks.metrics import weights
from benchmarks.metrics.profiles import MetricSpec
from lucidflux_data.codecs import version
from lucidflux_data.errors import ConfigError
from lucidflux_data.images import decode
from lucidflux_data.iqa import fidelity, pyiqa_models
from lucidflux_data.iqa.weight_files import WEIGHTS

# IQA-PyTorch's ResultsCalibra: official values of I03, I04, I06, I08, I19 (TID2013), and the relative error allowed.
OFFICIAL = {
    "psnr": ([21.11, 20.99, 27.01, 23.30, 21.62], 0.0005),
    "ssim": ([0.6993, 0.9978, 0.9989, 0.9669, 0.6519], 0.001),
    "niqe": ([15.7536, 3.6549, 3.2355, 3.1840, 8.6352], 0.06),
    "piqe": ([100, 21.62, 35.86, 41.15, 76.95], 0.001),
}


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    import skimage.data

    image = skimage.data.chelsea()
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return noisy, image


def test_psnr_equals_scikit_image(pair) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    assert fidelity.psnr(*pair) == pytest.approx(peak_signal_noise_ratio(pair[1], pair[0]), abs=1e-4)
    assert fidelity.psnr(pair[1], pair[1]) == pytest.approx(80)


def test_y_of_ycbcr_is_1_322_db_over_yiq(pair) -> None:
    """The offset that explains published PSNR gaps: 20 log10(255 / 219), on any image."""
    offset = fidelity.psnr(*pair, "ycbcr") - fidelity.psnr(*pair, "yiq")
    assert offset == pytest.approx(20 * np.log10(255 / 219), abs=1e-3)


@pytest.mark.parametrize("channel", ["yiq", "ycbcr", "rgb"])
def test_ssim_equals_scikit_image(pair, channel: str) -> None:
    from skimage.metrics import structural_similarity

    planes = [np.rint(fidelity._planes(image, channel)) for image in pair]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(*planes, channel_axis=2, **options)
    assert fidelity.ssim(*pair, channel) == pytest.approx(expected, abs=1e-6)


def test_psnr_and_ssim_equal_pyiqa(pair) -> None:
    pyiqa = pytest.importorskip("pyiqa")
    tensors = [pyiqa_models.image_tensor(image) for image in pair]
    psnr = pyiqa.create_metric("psnr", device="cpu", test_y_channel=True, color_space="ycbcr", crop_border=4)
    spec = MetricSpec("psnr", channel="ycbcr", crop=4)
    from benchmarks.metrics.score import load_scorer

    assert load_scorer(spec, "cpu")(*pair) == pytest.approx(psnr(*tensors).item(), abs=1e-4)
    ssim = pyiqa.create_metric("ssim", device="cpu")
    assert fidelity.ssim(*pair) == pytest.approx(ssim(*tensors).item(), abs=1e-5)


def calibration() -> Path | None:
    """LUCIDFLUX_CALIBRATION, or the folder that some builds of pyiqa install beside themselves."""
    import importlib.util

    found = importlib.util.find_spec("pyiqa")
    beside = Path(found.origin).parent.parent / "ResultsCalibra" if found and found.origin else None
    folder = Path(os.environ["LUCIDFLUX_CALIBRATION"]) if "LUCIDFLUX_CALIBRATION" in os.environ else beside
    return folder if folder and (folder / "dist_dir" / "I03.bmp").exists() else None


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_official_calibration_values(name: str) -> None:
    folder = calibration()
    if folder is None:
        pytest.skip("LUCIDFLUX_CALIBRATION does not name IQA-PyTorch's ResultsCalibra folder")
    if name == "piqe":
        pytest.importorskip("pyiqa")
    from benchmarks.metrics.score import load_scorer

    scorer = load_scorer(MetricSpec(name), "cpu")
    values, tolerance = OFFICIAL[name]
    for image, official in zip(("I03", "I04", "I06", "I08", "I19"), values, strict=True):
        output, reference = (decode((folder / d / f"{image}.bmp").read_bytes()) for d in ("dist_dir", "ref_dir"))
        assert scorer(output, reference) == pytest.approx(official, rel=tolerance), image


def test_lr_consistency_is_high_for_bicubic_and_falls_with_invention(pair) -> None:
    from PIL import Image

    from benchmarks.metrics.score import load_scorer

    scorer = load_scorer(MetricSpec("lr_consistency"), "cpu")
    hq = pair[1][:300, :448]
    lq = np.asarray(Image.fromarray(hq).resize((112, 75), Image.Resampling.BICUBIC))
    assert scorer(hq, lq) == pytest.approx(80)  # the very image it was made from
    assert scorer(np.ascontiguousarray(hq[:, ::-1]), lq) < 20


def test_profiles_are_the_papers() -> None:
    paper = metrics.load_profile("lucidflux-paper")
    nr = [spec.name for spec in paper.metrics if spec.needs == "nothing"]
    assert set(nr) == {"clipiqa", "clipiqa+", "niqe", "musiq", "maniqa", "qalign", "nima"}
    assert all(spec.crop == 0 for spec in paper.metrics)
    seesr = {spec.name: spec for spec in metrics.load_profile("seesr-paper").metrics}
    assert "maniqa" not in seesr
    assert seesr["maniqa-pipal"].needs == "nothing"
    assert seesr["psnr"].parameters() == {"crop": 4, "channel": "ycbcr"}
    for name in metrics.profile_names():
        profile = metrics.load_profile(name)
        known = {spec.name for spec in profile.metrics}
        assert all(set(group) <= known for group in profile.groups.values())
        assert [spec.ranked for spec in profile.metrics if spec.name == "lr_consistency"] == [False]
    with pytest.raises(ConfigError, match="offline"):
        metrics.load_profile("online")


def test_directions_equal_pyiqas() -> None:
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    assert pyiqa.list_models()
    for name in {spec.name for p in metrics.profile_names() for spec in metrics.load_profile(p).metrics}:
        if name not in ("lr_consistency", "ntire-2025", "feature_distance", "feature_distance_lq"):  # ours, and a sum
            assert MetricSpec(name).lower_is_better == DEFAULT_CONFIGS[name].get("lower_better", False), name


def test_the_fingerprint_follows_whatever_changes_a_number(tmp_path, monkeypatch) -> None:
    niqe = MetricSpec("niqe").fingerprint("cpu")
    assert niqe == MetricSpec("niqe").fingerprint("cpu")
    assert niqe != MetricSpec("niqe", crop=4).fingerprint("cpu")
    assert MetricSpec("psnr").fingerprint("cpu") == MetricSpec("psnr", channel="rgb").fingerprint("cpu")
    assert MetricSpec("psnr").fingerprint("cpu") != MetricSpec("psnr", channel="yiq").fingerprint("cpu")
    with monkeypatch.context() as patched:
        patched.setattr(version, "DECODER_VERSION", 1)
        assert niqe != MetricSpec("niqe").fingerprint("cpu")
    monkeypatch.setattr(metrics, "OWN_VERSION", 2)
    assert niqe != MetricSpec("niqe").fingerprint("cpu")
    pytest.importorskip("pyiqa")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"musiq_koniq_ckpt-e95806b9\.pth in .*pyiqa"):
        MetricSpec("musiq").fingerprint("cpu")
    file = tmp_path / "hub" / "pyiqa" / "musiq_koniq_ckpt-e95806b9.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    first = MetricSpec("musiq").fingerprint("cpu")
    file.write_bytes(b"other")
    assert first != MetricSpec("musiq").fingerprint("cpu")
    assert MetricSpec("musiq").fingerprint("cuda") != MetricSpec("musiq").fingerprint("cpu")
    assert "does not have the sha256" in str(weights.problem("musiq"))


def test_the_library_of_a_backbone_stands_in_the_fingerprint(tmp_path, monkeypatch) -> None:
    """What the file of a metric's network imports, for every metric that pyiqa computes with weights."""
    pytest.importorskip("pyiqa")
    import importlib.metadata

    import pyiqa
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    sources = [path.read_text() for path in Path(pyiqa.__file__).parent.glob("archs/*.py")]
    asked: list[str] = []
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: asked.append(name) or installed(name))
    monkeypatch.setattr(weights, "digest_of", lambda _: "none")
    for name in WEIGHTS.keys() - {"clipiqa", "feature_distance", "feature_distance_lq"}:
        network = DEFAULT_CONFIGS[name]["metric_opts"]["type"]
        (source,) = [text for text in sources if f"\nclass {network}(" in text]
        wanted = {library for library in ("timm", "transformers") if f"import {library}" in source}
        wanted |= {"transformers"} if name == "qalign" else set()
        asked.clear()
        before = MetricSpec(name).fingerprint("cpu")
        assert {"pyiqa", "torch", "torchvision"} | wanted <= set(asked), name
        for library in wanted:
            with monkeypatch.context() as newer:
                newer.setattr(importlib.metadata, "version", lambda n, x=library: "99" if n == x else installed(n))
                assert MetricSpec(name).fingerprint("cpu") != before, (name, library)
