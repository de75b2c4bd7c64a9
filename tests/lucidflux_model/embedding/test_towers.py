"""CLIP and SigLIP towers of random weights, as transformers saves them, against its own `get_image_features`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lucidflux_data.errors import ConfigError, InputError
from lucidflux_model.embedding.known import ready_name
from lucidflux_model.embedding.ready import ReadyScorer

transformers = pytest.importorskip("transformers")
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
# As of the published repositories: CLIP's numbers in the older form, SigLIP 2's in the newer one.
CLIP_IMAGES = {
    "crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 32, "resample": 3,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
SIGLIP_IMAGES = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_processor_type": "SiglipImageProcessor",
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "processor_class": "SiglipProcessor", "resample": 2,
    "rescale_factor": 1 / 255, "size": {"height": 32, "width": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip/ and siglip2/ with both towers, as they are published."""
    place = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    clip = transformers.CLIPConfig(
        text_config={**TEXT, "projection_dim": 24}, vision_config={**VISION, "projection_dim": 24}, projection_dim=24
    )
    siglip = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    for name, model, images in (
        ("clip", transformers.CLIPModel(clip), CLIP_IMAGES),
        ("siglip2", transformers.SiglipModel(siglip), SIGLIP_IMAGES),
    ):
        model.save_pretrained(place / name)
        (place / name / "preprocessor_config.json").write_text(json.dumps(images))
    return place


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, size, np.uint8) for size in ((50, 40, 3), (33, 70, 3), (32, 32, 3))]


def by_hand(name: str, image: np.ndarray) -> torch.Tensor:
    """The pixels as the papers' code makes them: by Pillow, on bytes."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if name == "clip":
        size = (32, 32 * height // width) if width <= height else (32 * width // height, 32)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (picture.width - 32) // 2, (picture.height - 32) // 2
        picture = picture.crop((left, top, left + 32, top + 32))
        about = CLIP_IMAGES
    else:
        picture, about = picture.resize((32, 32), Image.Resampling.BILINEAR), SIGLIP_IMAGES
    pixels = (np.asarray(picture, np.float32) / 255 - about["image_mean"]) / about["image_std"]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_vectors_are_the_image_features(name: str, folders: Path, images: list[np.ndarray], monkeypatch) -> None:
    monkeypatch.setenv("LUCIDFLUX_WEIGHTS", str(folders))
    scorer = ReadyScorer(name)
    found = scorer(images)[name]
    kind = transformers.CLIPModel if name == "clip" else transformers.SiglipModel
    model = kind.from_pretrained(folders / name, use_safetensors=True).eval()
    with torch.no_grad():
        features = [model.get_image_features(pixel_values=by_hand(name, image)) for image in images]
    expected = np.concatenate([getattr(each, "pooler_output", each).numpy() for each in features])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.shape == (3, 24 if name == "clip" else 32)
    assert np.abs(found - expected).max() < 0.01  # Pillow and torchvision round a resized byte differently
    assert np.sum(found * expected, axis=1).min() > 0.9995 > np.abs(expected[0] @ expected[1])
    assert np.array_equal(found, np.concatenate([scorer([image])[name] for image in images]))


def test_a_strip_is_taken_by_its_middle(folders: Path) -> None:
    strip = np.random.default_rng(0).integers(0, 256, (2, 4000, 3), np.uint8)
    middle = strip[:, 2000 - 16 : 2000 + 16]
    scorer = ReadyScorer(f"clip={folders / 'clip'}")
    assert np.array_equal(scorer([strip])["clip"], scorer([middle])["clip"])


def test_what_is_missing_is_named(folders: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LUCIDFLUX_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError) as told:
        ReadyScorer("siglip2")
    for word in ("config.json", "preprocessor_config.json", "model.safetensors", "google/siglip2", "(Apache-2.0)"):
        assert word in str(told.value)
    copy(folders / "clip", tmp_path / "clip", without="model.safetensors")
    torch.save({"x": torch.zeros(1)}, tmp_path / "clip" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"clip needs .*model.safetensors, to be had at .* \(MIT\)"):
        ReadyScorer("clip")


def test_other_folders_are_refused(folders: Path, tmp_path: Path) -> None:
    def refused(name: str, change: dict[str, object], sentence: str) -> None:
        place = tmp_path / "other"
        copy(folders / name, place)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=sentence):
            ReadyScorer(f"{name}={place}")

    refused("siglip2", {"model_type": "siglip2"}, "NaFlex.*take one of a fixed size")
    refused("siglip2", {"model_type": "clip"}, "a model of type clip, not siglip2")
    refused(
        "clip", {"vision_config": {**VISION, "num_hidden_layers": 3, "projection_dim": 24}}, "lacks weights of clip"
    )
    refused("clip", {"vision_config": {**VISION, "hidden_size": 64, "projection_dim": 24}}, "cannot be read")
    refused("clip", {"vision_config": {**VISION, "image_size": 40, "projection_dim": 24}}, "cannot be read")
    (tmp_path / "other" / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match="cannot be read"):
        ReadyScorer(f"clip={tmp_path / 'other'}")
    (tmp_path / "other" / "config.json").write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        ReadyScorer(f"clip={tmp_path / 'other'}")


def test_code_of_a_folder_is_not_run(folders: Path, tmp_path: Path) -> None:
    place = tmp_path / "clip"
    copy(folders / "clip", place)
    for file in ("config.json", "preprocessor_config.json"):
        settings = json.loads((place / file).read_text())
        settings["auto_map"] = {"AutoModel": "theirs.Model", "AutoImageProcessor": "theirs.Model"}
        (place / file).write_text(json.dumps(settings))
    (place / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    image = np.zeros((40, 40, 3), np.uint8)
    plain = ReadyScorer(f"clip={folders / 'clip'}")([image])["clip"]
    assert np.array_equal(ReadyScorer(f"clip={place}")([image])["clip"], plain)
    assert not (tmp_path / "ran").exists()
    assert ready_name(f"clip={place}") != ready_name(f"clip={folders / 'clip'}")


def copy(source: Path, place: Path, without: str = "") -> None:
    place.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.name != without:
            (place / file.name).write_bytes(file.read_bytes())
