"""CLIP-IQA (Wang, Chan, Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023), RN50 of open_clip.

    image at native size -> ResNet-50 -> attention pooling without positional embedding -> cosine with two texts
    -> softmax over "good" and "bad" -> mean over five antonym pairs; 0..1, higher is better

Written from the paper; the five pairs are those of the common implementations, so that scores compare. Of the pooling
only the query of the mean token is computed, since only its output is used: memory grows with the number of pixels,
not with its square.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.iqa.batches import BatchScorer
from lucidflux_data.iqa.fetch import source
from lucidflux_data.iqa.pins import CLIP_RN50, why_not_opened
from lucidflux_data.iqa.weight_files import own_folders

PACKAGES = ("torch", "open_clip")
WEIGHTS_FILE = "RN50.pt"
ANTONYMS = (
    ("Good image", "bad image"),
    ("Sharp image", "blurry image"),
    ("sharp edges", "blurry edges"),
    ("High resolution image", "low resolution image"),
    ("Noise-free image", "noisy image"),
)
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own normalisation, RGB in 0..1
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def find_weights() -> Path:
    """The local weights file. ConfigError where there is none: what is missing, where it is to be had, and what else
    can be chosen; packages that are missing are named with it."""
    found = next((folder / WEIGHTS_FILE for folder in own_folders() if (folder / WEIGHTS_FILE).is_file()), None)
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if found is not None and not packages:
        return found
    needs = [f"{' and '.join(packages)} (pip install 'lucidflux[clip]')"] if packages else []
    if found is None:
        needs.append(
            f"OpenAI's {WEIGHTS_FILE} in {own_folders()[0]} (`lucidflux weights download clipiqa` fetches "
            f"{source(f'own:{WEIGHTS_FILE}')}, sha256 {CLIP_RN50})"
        )
    raise ConfigError(f"clipiqa needs {', and '.join(needs)}; --iqa niqe and --iqa none need nothing")


def load_clipiqa(device: str = "cpu", weights: Path | None = None) -> BatchScorer:
    """A scorer of uint8 NxHxWx3 RGB (one size) that gives float64 (N,) in 0..1.

    `weights`: OpenAI's TorchScript archive or a state dict with its names. ConfigError where they do not fit;
    VerificationError where the file is neither OpenAI's nor trusted (`pins`), since TorchScript runs what it holds.
    """
    import torch

    model = _load(weights, device)
    with torch.inference_mode():
        texts = _text_features(model, device)

    def score(images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            features = _features_of(model, images, device)
            logits = model.logit_scale.exp() * features @ texts.T
            scores: np.ndarray = (
                logits.view(len(images), len(ANTONYMS), 2).softmax(-1)[..., 0].mean(1).double().cpu().numpy()
            )
            return scores

    return score


def load_feature_distance(
    device: str = "cpu", weights: Path | None = None
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A measure of two uint8 HxWx3 RGB images, of any sizes over 31 px: the cosine distance (0 to 2) of their features
    in OpenAI's CLIP RN50, those that CLIP-IQA compares with its words. Errors as of `load_clipiqa`."""
    import torch

    model = _load(weights, device)

    def compare(first: np.ndarray, second: np.ndarray) -> float:
        with torch.inference_mode():
            one, other = (_features_of(model, image[None], device)[0].double() for image in (first, second))
            return float(1 - one @ other / (one.norm() * other.norm()))

    return compare


def _load(weights: Path | None, device: str) -> Any:
    weights = weights or find_weights()
    problem = why_not_opened(weights, frozenset({CLIP_RN50}))
    if problem:
        raise VerificationError(f"clipiqa was not loaded: {problem}")
    return _model(weights).to(device).eval()


def _features_of(model: Any, images: np.ndarray | Sequence[np.ndarray], device: str) -> Any:
    """(N, 1024) unit vectors of uint8 NxHxWx3 RGB."""
    import torch

    mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255
    return _image_features(model.visual, (batch - mean) / deviation)


def _model(weights: Path) -> Any:
    """open_clip's RN50 with OpenAI's activation, float32, weights from `weights`, strictly."""
    import open_clip
    import torch

    try:
        state = torch.jit.load(str(weights), map_location="cpu").state_dict()
    except RuntimeError:
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception:
            raise ConfigError(f"{weights} is neither OpenAI's archive nor a state dict: fetch it again") from None
    model = open_clip.CLIP(**open_clip.get_model_config("RN50-quickgelu"))
    state = {name: value.float() for name, value in state.items() if "." in name or name in _PLAIN}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError:
        raise ConfigError(f"{weights} does not hold the weights of CLIP RN50: fetch it again") from None
    return model.requires_grad_(False)


_PLAIN = ("positional_embedding", "text_projection", "logit_scale")  # the archive has three settings beside these


def _text_features(model: Any, device: str) -> Any:
    """(10, 1024) unit vectors: good and bad of each pair in turn."""
    import open_clip

    words = [word for pair in ANTONYMS for word in pair]
    return model.encode_text(open_clip.tokenize(words).to(device), normalize=True)


def _image_features(visual: Any, images: Any) -> Any:
    """(N, 1024) unit vectors of normalised NxCxHxW images of any size over 31 px."""
    import torch
    from torch.nn import functional

    maps = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps = layer(maps)
    pool = visual.attnpool
    tokens = maps.flatten(2).transpose(1, 2)  # (N, HW, C)
    mean = tokens.mean(1, keepdim=True)
    tokens = torch.cat([mean, tokens], 1)
    query, key, value = (
        part.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for part in (pool.q_proj(mean), pool.k_proj(tokens), pool.v_proj(tokens))
    )
    pooled = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)[:, 0]
    return functional.normalize(pool.c_proj(pooled), dim=-1)
