"""Blur kernels of the Real-ESRGAN degradation (arXiv 2107.10833) from the parameters in a plan.

    iso, aniso           exp(-q/2)              q = x' S^-1 x, S = R diag(sigma_x^2, sigma_y^2) R'
    generalized_*        exp(-q^beta / 2)
    plateau_*            1 / (1 + q^beta)
    sinc                 c J1(c r) / (2 pi r), c^2 / (4 pi) at r = 0: a circular low pass with cut-off c radians a pixel

All are divided by their sum. Rows are y, columns x, the centre is the middle tap.
"""

from __future__ import annotations

import math

import numpy as np

from lucidflux_data.degradation.plan import Kernel
from lucidflux_data.numerics import bessel_j1

DROPPED = 1e-6  # share of a kernel's absolute mass that `trimmed` may leave out: under 0.0003 grey levels


def make_kernel(parameters: Kernel) -> np.ndarray:
    """float64 size x size kernel that sums to 1. ValueError for a type that is not known."""
    size, kind = parameters["size"], parameters["type"]
    axis = np.arange(size) - (size - 1) / 2
    x, y = axis[None, :], axis[:, None]
    if kind == "sinc":
        kernel = _sinc(np.hypot(x, y), parameters["cutoff"])
    else:
        q = _quadratic_form(x, y, parameters)
        beta = parameters.get("beta", 1.0)
        if kind in ("iso", "aniso", "generalized_iso", "generalized_aniso"):
            kernel = np.exp(-0.5 * q**beta)
        elif kind in ("plateau_iso", "plateau_aniso"):
            kernel = 1 / (1 + q**beta)
        else:
            raise ValueError(f"no kernel type {kind!r}")
    normalised: np.ndarray = kernel / kernel.sum()
    return normalised


def _quadratic_form(x: np.ndarray, y: np.ndarray, parameters: Kernel) -> np.ndarray:
    sigma_x = parameters["sigma_x"]
    sigma_y, theta = parameters.get("sigma_y", sigma_x), parameters.get("rotation", 0.0)
    along = math.cos(theta) * x + math.sin(theta) * y
    across = math.cos(theta) * y - math.sin(theta) * x
    form: np.ndarray = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
    return form


def _sinc(radius: np.ndarray, cutoff: float) -> np.ndarray:
    middle = radius == 0
    away = np.where(middle, 1.0, radius)
    return np.where(middle, cutoff**2 / (4 * math.pi), cutoff * bessel_j1(cutoff * away) / (2 * math.pi * away))


def trimmed(kernel: np.ndarray) -> np.ndarray:
    """The middle of the kernel without the rings whose absolute mass is under DROPPED in all; at least 1x1."""
    total = np.abs(kernel).sum()
    while len(kernel) > 1:
        inner = kernel[1:-1, 1:-1]
        if total - np.abs(inner).sum() > DROPPED * total:
            break
        kernel = inner
    return kernel


def separated(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(column, row) where the kernel is their outer product to 1e-7 of its largest tap, else None."""
    middle = len(kernel) // 2
    peak = kernel[middle, middle]
    if peak == 0:
        return None
    column, row = kernel[:, middle], kernel[middle] / peak
    return (column, row) if np.abs(np.outer(column, row) - kernel).max() < 1e-7 * abs(peak) else None


def is_mirrored(kernel: np.ndarray) -> bool:
    """Whether the kernel is its own image upside down, so that rows can be added before they are weighted."""
    return bool(np.abs(kernel - kernel[::-1]).max() < 1e-9 * np.abs(kernel).max())
