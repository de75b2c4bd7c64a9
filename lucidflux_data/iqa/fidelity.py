"""PSNR and SSIM, and the distance of two Gaussians."""

from __future__ import annotations

import cv2
import numpy as np

# Luma weights over 0..255: `yiq` keeps the full range; `ycbcr` is BT.601's studio range, 16..235, which most
# restoration papers mean by Y. The two PSNR differ by 20 log10(255/219) = 1.322 dB on every image.
LUMA = {"yiq": (np.array([0.299, 0.587, 0.114]), 0.0), "ycbcr": (np.array([65.481, 128.553, 24.966]) / 255, 16.0)}


def gaussian_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to features (n, d) and (m, d), n and m at least 2: Dowson, Landau 1982.

    Tr((A B)^(1/2)) of the covariances is the sum of the singular values of the centred features' product, n x m. So it
    exists for any n, where the matrix square root that others take has no answer for fewer images than features.
    """
    means = first.mean(axis=0, dtype=np.float64), second.mean(axis=0, dtype=np.float64)
    centred = [(part - mean) / np.sqrt(len(part) - 1) for part, mean in zip((first, second), means, strict=True)]
    shared = np.linalg.norm(centred[0] @ centred[1].T, "nuc")
    return float(np.sum((means[0] - means[1]) ** 2) + sum(np.sum(part**2) for part in centred) - 2 * shared)


def _planes(pixels: np.ndarray, channel: str) -> np.ndarray:
    """float64 HxWxC of uint8 RGB: the colours (`rgb`), or one plane of luma that is not rounded."""
    if channel == "rgb":
        return pixels.astype(np.float64)
    weights, offset = LUMA[channel]
    plane: np.ndarray = (pixels @ weights + offset)[..., None]
    return plane


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
        inside: np.ndarray = blurred.reshape(values.shape)[5:-5, 5:-5]
        return inside

    mean1, mean2 = smooth(first), smooth(second)
    variances = smooth(first * first) - mean1**2 + smooth(second * second) - mean2**2
    covariance = smooth(first * second) - mean1 * mean2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = np.maximum((2 * covariance + c2) / (variances + c2), 0)
    return float(np.mean((2 * mean1 * mean2 + c1) / (mean1**2 + mean2**2 + c1) * structure))
