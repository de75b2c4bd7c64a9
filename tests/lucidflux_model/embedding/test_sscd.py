"""SSCD's descriptor with random weights in the published layout, against the formulas written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lucidflux_data.errors import ConfigError, InputError
from lucidflux_model.embedding.known import from_anywhere, ready_name
from lucidflux_model.embedding.ready import ReadyScorer

torchvision = pytest.importorskip("torchvision")
NAME = "sscd_disc_mixup.torchvision.pt"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The names of the published file: torchvision's ResNet-50 below `backbone.`, its last layer to 512 numbers."""
    torch.manual_seed(0)
    found = torchvision.models.resnet50(num_classes=512).state_dict()
    for name, tensor in found.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(".bias"):
            tensor.uniform_(-0.1, 0.1)
        elif "bn" in name and name.endswith(".weight"):
            tensor.uniform_(0.4, 0.9)
    return {f"backbone.{name}": tensor for name, tensor in found.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor]) -> Path:
    path = tmp_path_factory.mktemp("weights") / NAME
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (9, 7, 3), np.uint8), rng.integers(0, 256, (4, 12, 3), np.uint8)]
    sizes = [(400, 300), (250, 520)]
    return [np.asarray(Image.fromarray(image).resize(size)) for image, size in zip(small, sizes, strict=True)]


def slow(state: dict[str, Tensor], image: np.ndarray) -> np.ndarray:
    """ResNet-50 (He et al., strides in the 3x3 convolutions), layer by layer in float64, by the names of the file."""

    def conv(x: Tensor, name: str, stride: int, pad: int) -> Tensor:
        return F.conv2d(x, state[f"backbone.{name}.weight"].double(), None, stride, pad)

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift, mean, variance = (
            state[f"backbone.{name}.{part}"].double().view(1, -1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    pixels = np.asarray(Image.fromarray(image).resize((320, 320), Image.Resampling.BILINEAR), np.float64) / 255
    pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    x = F.max_pool2d(norm(conv(x, "conv1", 2, 3), "bn1").clamp(min=0), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, f"{at}.conv1", 1, 0), f"{at}.bn1").clamp(min=0)
            y = norm(conv(y, f"{at}.conv2", stride, 1), f"{at}.bn2").clamp(min=0)
            y = norm(conv(y, f"{at}.conv3", 1, 0), f"{at}.bn3")
            x = norm(conv(x, f"{at}.downsample.0", stride, 0), f"{at}.downsample.1") if block == 0 else x
            x = (x + y).clamp(min=0)
    maps = x[0].numpy()
    pooled = np.array([np.mean(np.maximum(each, 1e-6) ** 3) ** (1 / 3) for each in maps])
    vector = state["backbone.fc.weight"].double().numpy() @ pooled + state["backbone.fc.bias"].double().numpy()
    unit: np.ndarray = vector / np.sqrt((vector**2).sum())
    return unit


def test_vectors_are_those_of_the_formulas_and_of_no_batch(weights: Path, state, images: list[np.ndarray]) -> None:
    scorer = ReadyScorer(f"sscd={weights}")
    found = scorer(images)
    assert list(found) == ["sscd"]
    vectors = found["sscd"]
    assert vectors.shape == (2, 512)
    expected = np.stack([slow(state, image) for image in images])
    assert np.abs(vectors - expected).max() < 1e-6
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "two images, two vectors"
    again = np.concatenate([scorer([image])["sscd"] for image in images])
    assert np.array_equal(again, vectors)


def test_safetensors_give_the_same_below_the_folder_of_weights(
    weights: Path, state, images: list[np.ndarray], tmp_path: Path, monkeypatch
) -> None:
    file = tmp_path / "sscd.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    expected = ReadyScorer(f"sscd={file}")(images[:1])["sscd"]
    monkeypatch.setenv("LUCIDFLUX_WEIGHTS", str(weights.parent))
    assert np.array_equal(ReadyScorer("sscd")(images[:1])["sscd"], expected)
    assert ready_name("sscd") == ready_name(f"sscd={weights}") != ready_name(f"sscd={file}")
    assert ready_name("sscd").startswith("sscd.")
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("sscd=sscd.safetensors") == f"sscd={file}"
    assert from_anywhere("sscd") == "sscd"
    assert from_anywhere("their=x.y:z") == "their=x.y:z"


def test_a_missing_file_is_named_with_its_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LUCIDFLUX_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError) as told:
        ReadyScorer("sscd")
    sentence = str(told.value)
    assert str(tmp_path / NAME) in sentence
    assert f"fbaipublicfiles.com/sscd-copy-detection/{NAME} (MIT)" in sentence
    assert "--scorer sscd=PATH" in sentence


def test_other_files_are_refused(weights: Path, state, tmp_path: Path) -> None:
    def refused(content: dict[str, Tensor], sentence: str) -> None:
        path = tmp_path / "other.pt"
        torch.save(content, path)
        with pytest.raises(InputError, match=sentence):
            ReadyScorer(f"sscd={path}")

    plain = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    refused(plain, "does not hold the ResNet-50 of SSCD by torchvision's names")
    refused({**state, "backbone.fc.bias": torch.zeros(1024)}, "does not hold the ResNet-50")
    refused({**state, "backbone.fc.bias": torch.full((512,), torch.nan)}, "no finite numbers")
    script = tmp_path / "sscd_disc_mixup.torchscript.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(script))
    with pytest.raises(InputError, match="is TorchScript, which is code, and is not opened"):
        ReadyScorer(f"sscd={script}")
    damaged = tmp_path / "half.pt"
    damaged.write_bytes(weights.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match="damaged or not a file that torch wrote"):
        ReadyScorer(f"sscd={damaged}")
