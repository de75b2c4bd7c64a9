"""Our CLIP-IQA against pyiqa's with the same weights (random: none are downloaded), and what a user can do wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.iqa import clipiqa
from lucidflux_data.iqa.pins import TRUSTED
from tests.support.random_weights import trust

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    import skimage.data

    return [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()[:257, :390], skimage.data.rocket()]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, images: list[np.ndarray]) -> Path:
    """A state dict of RN50 with random weights, in half precision as OpenAI's file holds it.

    The statistics of its batch normalisation are those of the test's images: otherwise a random network gives nearly
    the same features for every image, and nothing would be compared.
    """
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config("RN50-quickgelu"))
    for module in model.visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = None
    crops = np.stack([image[:224, :288] for image in images])
    with torch.no_grad():
        model.visual.train()(torch.nn.functional.interpolate(image_tensor(crops), (224, 224)))
        model.logit_scale.fill_(float(np.log(100)))  # where OpenAI's training ended
    path = tmp_path_factory.mktemp("clip") / clipiqa.WEIGHTS_FILE
    state = model.state_dict()
    torch.save({name: v.half() if v.is_floating_point() else v for name, v in state.items()}, path)
    trust(path.parent)
    return path


@pytest.fixture(autouse=True)
def _trusted(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, str(weights.with_name("trusted.txt")))


def image_tensor(images: np.ndarray) -> object:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255


def test_scores_equal_pyiqa(weights: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    arch = pytest.importorskip("pyiqa.archs.clipiqa_arch")
    from pyiqa.archs.clip_model import build_model

    def load(name: str, device: str) -> object:
        assert name == "RN50"
        return build_model(torch.load(weights, weights_only=True)).float()

    monkeypatch.setattr(arch, "load", load)
    theirs = arch.CLIPIQA().eval()
    ours = clipiqa.load_clipiqa(weights=weights)
    expected, found = [], []
    with torch.inference_mode():
        for image in images:
            expected.append(theirs(image_tensor(image[None])).item())
            found.append(float(ours(image[None])[0]))
    assert np.abs(np.array(found) - expected).max() < 1e-3
    assert np.ptp(expected) > 0.02, "a comparison of equal numbers would show nothing"


def test_a_batch_gives_what_its_images_give_alone(weights: Path, images: list[np.ndarray]) -> None:
    score = clipiqa.load_clipiqa(weights=weights)
    crops = np.stack([image[:224, :288] for image in images])
    alone = np.concatenate([score(crop[None]) for crop in crops])
    assert np.abs(score(crops) - alone).max() < 1e-4


def test_missing_and_wrong_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDFLUX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"RN50\.pt in .*weights download clipiqa.*--iqa niqe and --iqa none"):
        clipiqa.load_clipiqa()
    monkeypatch.setenv(TRUSTED, str(tmp_path / "trusted.txt"))
    (tmp_path / clipiqa.WEIGHTS_FILE).write_text("no weights at all")
    trust(tmp_path)
    with pytest.raises(ConfigError, match="fetch it again"):
        clipiqa.load_clipiqa()
    torch.save({"visual.conv1.weight": torch.zeros(3)}, tmp_path / clipiqa.WEIGHTS_FILE)
    with pytest.raises(VerificationError, match=r"clipiqa was not loaded: .* does not have the sha256 that is pinned"):
        clipiqa.load_clipiqa()
    trust(tmp_path)
    with pytest.raises(ConfigError, match="does not hold the weights of CLIP RN50"):
        clipiqa.load_clipiqa()


def test_the_distance_is_of_the_features_that_openai_has(
    weights: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 224 pixels they are those of open_clip's own network; the column compares with the reference, or with the
    enlarged input."""
    from PIL import Image

    from benchmarks.metrics.profiles import profile_of_metrics
    from benchmarks.metrics.score import load_scorer

    monkeypatch.setattr(clipiqa, "find_weights", lambda: weights)
    model = open_clip.CLIP(**open_clip.get_model_config("RN50-quickgelu"))
    model.load_state_dict({name: v.float() for name, v in torch.load(weights, weights_only=True).items()})
    a, b = (np.ascontiguousarray(image[:224, :224]) for image in images[:2])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (clipiqa.MEAN, clipiqa.DEVIATION))
    with torch.inference_mode():
        one, two = model.eval().encode_image((torch.as_tensor(image_tensor(np.stack([a, b]))) - mean) / std)
    expected = 1 - float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    with_gt, with_lq = profile_of_metrics(["feature_distance", "feature_distance_lq"]).metrics
    assert (with_gt.needs, with_gt.ranked, with_gt.lower_is_better) == ("gt", False, True)
    assert (with_lq.needs, with_lq.ranked) == ("lq", False)
    compare = load_scorer(with_gt, "cpu")
    assert compare(a, b) == pytest.approx(expected, abs=1e-4)
    assert expected > 1e-3
    assert compare(a, a) == pytest.approx(0, abs=1e-6)
    small = np.asarray(Image.fromarray(b).resize((56, 56)))
    large = np.array(Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC))
    assert load_scorer(with_lq, "cpu")(a, small) == pytest.approx(compare(a, large), abs=1e-6)
