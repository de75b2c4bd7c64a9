"""Quality metrics by name. NIQE, CLIP-IQA, PSNR and SSIM are our own; others are pyiqa's (PolyForm Noncommercial).

A scorer takes a batch of uint8 HxWx3 RGB images and gives one number each. What a user can mend (a missing extra,
missing weights) is a ConfigError in one line; what concerns one image is an ImageError.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lucidflux_data.errors import ConfigError
from lucidflux_data.iqa.batches import BatchScorer, OutOfMemory
from lucidflux_data.iqa.niqe import niqe


@dataclass(frozen=True)
class Metric:
    """`full_reference`: compares with a reference, so it cannot select. `offline`: needs no downloaded weights."""

    lower_is_better: bool
    full_reference: bool = False
    offline: bool = False
    batched: bool = False  # an image's score was shown not to depend on its company


# Directions as pyiqa 0.1.16 declares them; kept here so that a selection needs neither torch nor pyiqa.
METRICS = {
    "niqe": Metric(lower_is_better=True, offline=True),
    "piqe": Metric(lower_is_better=True, offline=True),
    "clipiqa": Metric(lower_is_better=False, batched=True),
    "clipiqa+": Metric(lower_is_better=False),
    "musiq": Metric(lower_is_better=False),
    "maniqa": Metric(lower_is_better=False),
    "maniqa-pipal": Metric(lower_is_better=False),
    "nima": Metric(lower_is_better=False),
    "qalign": Metric(lower_is_better=False),
    "topiq_nr": Metric(lower_is_better=False),
    "brisque": Metric(lower_is_better=True),
    "psnr": Metric(lower_is_better=False, full_reference=True, offline=True),
    "ssim": Metric(lower_is_better=False, full_reference=True, offline=True),
    "lpips": Metric(lower_is_better=True, full_reference=True),
    "dists": Metric(lower_is_better=True, full_reference=True),
}


def metric(name: str) -> Metric:
    """What is known of a metric. ConfigError for an unknown name, with the nearest ones."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.5) or list(METRICS)
        raise ConfigError(f"there is no metric {name!r}: did you mean {', '.join(near)}?")
    return METRICS[name]


def lower_is_better(name: str) -> bool:
    """The direction of a metric; needs neither torch nor weights."""
    return metric(name).lower_is_better


def load_metric(name: str, device: str = "cpu") -> BatchScorer:
    """A scorer of uint8 NxHxWx3 RGB (no reference). ConfigError where an extra or the weights are missing.

    Only metrics with `batched` may be given N > 1. Raises OutOfMemory, and ImageError for an image it refuses.
    """
    if metric(name).full_reference:
        raise ConfigError(f"{name} compares with a reference: it cannot score a single image")
    if name == "niqe":
        return lambda images: [niqe(image) for image in images]
    if name == "clipiqa":
        _require("clipiqa", "clip", "torch", "open_clip")
        from lucidflux_data.iqa.clipiqa import load_clipiqa

        return _guarded(load_clipiqa(device))
    model = pyiqa_model(name, device)
    return _guarded(lambda images: [float(value) for value in model(_tensor(images)).flatten()])


def _guarded(score: BatchScorer) -> BatchScorer:
    """torch's out of memory as ours."""
    import torch

    def guarded(images: np.ndarray | Sequence[np.ndarray]) -> Iterable[float]:
        try:
            with torch.inference_mode():
                return score(images)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise OutOfMemory from None

    return guarded


def load_comparison(name: str, device: str = "cpu") -> Callable[[np.ndarray, np.ndarray], float]:
    """A scorer of (output, reference) for psnr (of RGB), ssim (of BT.601 luma), lpips, dists."""
    if not metric(name).full_reference:
        raise ConfigError(f"{name} scores a single image: it does not compare")
    if name in ("psnr", "ssim"):
        return psnr if name == "psnr" else ssim
    model = pyiqa_model(name, device)
    return lambda output, reference: float(model(_tensor(output), _tensor(reference)).item())


def frechet_distance(outputs: str, references: str, device: str = "cpu") -> float:
    """FID of two folders of images: pyiqa's features of its mode `clean`. Lower is better; biased upwards for small
    sets."""
    model = pyiqa_model("fid", device)
    from pyiqa.archs.fid_arch import get_folder_features

    options = {"num_workers": 0, "batch_size": 8, "device": device, "mode": "clean", "verbose": False}
    first, second = (get_folder_features(folder, model.net.model, **options) for folder in (outputs, references))
    return gaussian_distance(first, second)


def gaussian_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to features (n, d) and (m, d), n and m at least 2: Dowson, Landau 1982.

    Tr((A B)^(1/2)) of the covariances is the sum of the singular values of the centred features' product, n x m. So it
    exists for any n, where the matrix square root that others take has no answer for fewer images than features.
    """
    means = first.mean(axis=0, dtype=np.float64), second.mean(axis=0, dtype=np.float64)
    centred = [(part - mean) / np.sqrt(len(part) - 1) for part, mean in zip((first, second), means, strict=True)]
    shared = np.linalg.norm(centred[0] @ centred[1].T, "nuc")
    return float(np.sum((means[0] - means[1]) ** 2) + sum(np.sum(part**2) for part in centred) - 2 * shared)


# Luma weights over 0..255: `yiq` keeps the full range; `ycbcr` is BT.601's studio range, 16..235, which most
# restoration papers mean by Y. The two PSNR differ by 20 log10(255/219) = 1.322 dB on every image.
LUMA = {"yiq": (np.array([0.299, 0.587, 0.114]), 0.0), "ycbcr": (np.array([65.481, 128.553, 24.966]) / 255, 16.0)}


def _planes(pixels: np.ndarray, channel: str) -> np.ndarray:
    """float64 HxWxC of uint8 RGB: the colours (`rgb`), or one plane of luma that is not rounded."""
    if channel == "rgb":
        return pixels.astype(np.float64)
    weights, offset = LUMA[channel]
    return (pixels @ weights + offset)[..., None]


def psnr(output: np.ndarray, reference: np.ndarray, channel: str = "rgb") -> float:
    """Peak signal-to-noise ratio in dB of uint8 HxWx3 images, over `rgb`, `yiq` or `ycbcr`. 1e-8 on the squared error
    (values in 0..1), as pyiqa adds, so that equal images give 80 dB and a mean stays a number."""
    error = np.mean(((_planes(output, channel) - _planes(reference, channel)) / 255) ** 2)
    return float(-10 * np.log10(error + 1e-8))


def ssim(output: np.ndarray, reference: np.ndarray, channel: str = "yiq") -> float:
    """SSIM of uint8 HxWx3 images: Wang, Bovik, Sheikh, Simoncelli, IEEE TIP 2004. Gaussian 11x11 of sigma 1.5, only
    whole windows, luma rounded to levels (as pyiqa does), negative contrast terms count as 0. Sides: 11 px or more."""
    first, second = (np.rint(_planes(image, channel)) for image in (output, reference))
    window = cv2.getGaussianKernel(11, 1.5)

    def smooth(values: np.ndarray) -> np.ndarray:
        blurred = cv2.sepFilter2D(values, cv2.CV_64F, window, window)
        return blurred.reshape(values.shape)[5:-5, 5:-5]

    mean1, mean2 = smooth(first), smooth(second)
    variances = smooth(first * first) - mean1**2 + smooth(second * second) - mean2**2
    covariance = smooth(first * second) - mean1 * mean2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = np.maximum((2 * covariance + c2) / (variances + c2), 0)
    return float(np.mean((2 * mean1 * mean2 + c1) / (mean1**2 + mean2**2 + c1) * structure))


def pyiqa_model(name: str, device: str) -> Any:
    _require(name, "iqa", "torch", "pyiqa")
    import pyiqa
    import torch

    torch.set_num_threads(1)
    try:
        if name == "qalign":
            _mend_qalign()
        with contextlib.redirect_stdout(io.StringIO()):  # it announces its files there, where --json stands
            return pyiqa.create_metric(name, device=device)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} needs the package {error.name}: pip install 'lucidflux[iqa]'") from None
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"{name} could not be loaded ({type(error).__name__}: {said}): its weights are looked for in "
            f"{torch.hub.get_dir()} (TORCH_HOME) and the Hugging Face cache (HF_HOME), and `lucidflux bench doctor` "
            "names each file; or choose --iqa niqe or --iqa none"
        ) from None


def _mend_qalign() -> None:
    """Q-Align of pyiqa 0.1.16 calls `invert_attention_mask`, which transformers 5.8 has and 5.24 has no more: 0 where a
    token is attended to, the smallest number of the type elsewhere. Also keeps transformers quiet."""
    import torch
    import transformers
    from pyiqa.archs.q_align.visual_encoder import MplugOwlVisualAbstractorModel as Abstractor

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not hasattr(Abstractor, "invert_attention_mask"):
        Abstractor.invert_attention_mask = lambda self, mask: (
            (1 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min
        )


def _require(name: str, extra: str, *packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{name} needs {package}: pip install 'lucidflux[{extra}]', or choose --iqa niqe or --iqa none"
            )


def _tensor(images: np.ndarray | Sequence[np.ndarray]) -> Any:
    """float32 Nx3xHxW in 0..1, as pyiqa takes it, of uint8 HxWx3 or NxHxWx3."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return (tensor if tensor.ndim == 4 else tensor[None]).permute(0, 3, 1, 2).float() / 255
