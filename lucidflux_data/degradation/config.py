"""The settings of a degradation, and the presets with the source of every value.

a stage: blur -> resize -> noise -> JPEG; the last one ends with {resize to the LQ size, sinc} and JPEG, in one of
two orders

realesrgan-x4   Real-ESRGAN, options/train_realesrgan_x4plus.yml, and realesrgan_dataset.py for what is constant
                there (kernel sizes 7..21, sinc cut-offs; `blur_kernel_size` of the options has no effect)
lucidflux       arXiv 2509.22414 points to DreamClear, whose tools/make_paired_data.py has Real-ESRGAN's values and
                keeps the sharpened HQ. Inferred: no data code of LucidFlux is published
light           StableSR, configs/stableSRNew/v2-finetune_text_T_512.yaml
codeformer      DiffBIR, configs/train/train_stage2.yaml: CodeFormer's single stage, LQ at the size of the HQ
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lucidflux_data.config import Section, resolve
from lucidflux_data.errors import ConfigError, suggest

FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
RESIZE_MODES = ("area", "bilinear", "bicubic")
DIRECTIONS = ("up", "down", "keep")
MIN_LQ = 24
KERNEL_PROBS = dict(zip(FAMILIES, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True))
RESIZE_PROBS = dict(zip(DIRECTIONS, (0.2, 0.7, 0.1), strict=True))
RESIZE_PROBS_2 = dict(zip(DIRECTIONS, (0.3, 0.4, 0.3), strict=True))


def _split(value: object) -> object:
    """Lets `--set second.sigma=0.2,1.5` say what a TOML file says with a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Interval = Annotated[tuple[float, float], BeforeValidator(_split)]
Sizes = Annotated[tuple[int, ...], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Probability = Annotated[float, Field(ge=0, le=1)]
INTERVALS = frozenset(
    {"sigma", "beta_generalized", "beta_plateau", "sinc_cutoff", "resize_range"}
    | {"gaussian_sigma", "poisson_scale", "jpeg_quality", "cover"}
)


class Drawn(Section):
    """A section whose intervals run forwards."""

    @model_validator(mode="after")
    def _forwards(self) -> Drawn:
        for name, value in self:
            if name in INTERVALS and value[0] > value[1]:
                raise ValueError(f"{name} runs backwards: {value[0]:g} to {value[1]:g}")
        return self


def _check_table(name: str, table: Mapping[str, float], known: tuple[str, ...]) -> None:
    unknown = set(table) - set(known)
    if unknown:
        raise ValueError(f"{name} has {sorted(unknown)[0]!r}: known are {', '.join(known)}")
    if min(table.values(), default=0) < 0 or not math.isclose(sum(table.values()), 1, abs_tol=1e-6):
        raise ValueError(f"{name} must be probabilities that sum to 1, not to {sum(table.values()):g}")


class StageConfig(Drawn):
    """One stage. Sigmas of blurs in pixels, of noise in grey levels (0..255), cut-offs in radians a pixel.

    Source: Real-ESRGAN, options/train_realesrgan_x4plus.yml.
    """

    blur_prob: Probability = 1.0
    """How often the stage blurs. Unit: probability."""
    sinc_prob: Probability = 0.1
    """How often the blur is a sinc filter, in place of the Gaussian families. Unit: probability."""
    kernel_probs: dict[str, float] = Field(default_factory=lambda: KERNEL_PROBS)
    """How often a blur is of each family: iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso;
    they sum to 1. Unit: probability."""
    kernel_sizes: Sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    """Sides of the kernels, each as likely as the others. Unit: pixels. Source: Real-ESRGAN, realesrgan_dataset.py."""
    sigma: Interval = (0.2, 3.0)
    """Standard deviation of the blur along each axis, uniform. Unit: pixels."""
    beta_generalized: Interval = (0.5, 4.0)
    """Shape of the generalized families; half of the draws on each side of 1. Unit: exponent."""
    beta_plateau: Interval = (1.0, 2.0)
    """Shape of the plateau families; half of the draws on each side of 1. Unit: exponent."""
    resize_probs: dict[str, float] = Field(default_factory=lambda: RESIZE_PROBS)
    """How often the stage enlarges, shrinks or keeps the size: up, down, keep; they sum to 1. Unit: probability."""
    resize_range: Interval = (0.15, 1.5)
    """Scale of the resize: of the HQ side in the first stage, of the LQ side in the second. Unit: ratio."""
    resize_law: Literal["scale", "divisor"] = "scale"
    """Uniform in the scale, or in one over it (down only). Source: ours; DiffBIR for divisor."""
    resize_modes: Names = RESIZE_MODES
    """Interpolations, each as likely as the others: area, bilinear, bicubic. Source: Real-ESRGAN, realesrgan_model.py.
    """
    gaussian_prob: Probability = 0.5
    """How often the noise is Gaussian, else Poisson. Unit: probability."""
    gaussian_sigma: Interval = (1.0, 30.0)
    """Standard deviation of Gaussian noise, uniform. Unit: grey levels."""
    poisson_scale: Interval = (0.05, 3.0)
    """Scale of Poisson noise, uniform; 1 is shot noise at the image's own count of levels. Unit: factor."""
    gray_prob: Probability = 0.4
    """How often one field of noise serves all three colours. Unit: probability."""
    jpeg_quality: Interval = (30.0, 95.0)
    """Quality of the JPEG step, uniform. Unit: libjpeg quality."""

    @model_validator(mode="after")
    def _tables(self) -> StageConfig:
        _check_table("kernel_probs", self.kernel_probs, FAMILIES)
        _check_table("resize_probs", self.resize_probs, DIRECTIONS)
        if not self.kernel_sizes or any(size % 2 == 0 or not 3 <= size <= 51 for size in self.kernel_sizes):
            raise ValueError("kernel_sizes are odd, 3 to 51")
        if not self.resize_modes or set(self.resize_modes) - set(RESIZE_MODES):
            raise ValueError(f"resize_modes are out of {', '.join(RESIZE_MODES)}")
        if (
            self.sigma[0] <= 0
            or self.resize_range[0] <= 0
            or not 1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 100
        ):
            raise ValueError("sigma and resize_range are over 0, jpeg_quality is within 1..100")
        return self


class FinalConfig(Drawn):
    """The way to the LQ size: resize and sinc filter together, JPEG before or after them.

    Source: Real-ESRGAN, options/train_realesrgan_x4plus.yml.
    """

    sinc_prob: Probability = 0.8
    """How often the last sinc filter is applied. Unit: probability."""
    kernel_sizes: Sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    """Sides of its kernels, each as likely as the others. Unit: pixels. Source: Real-ESRGAN, realesrgan_dataset.py."""
    sinc_cutoff: Interval = (math.pi / 3, math.pi)
    """Cut-off of the sinc filter, uniform. Unit: radians a pixel. Source: Real-ESRGAN, realesrgan_dataset.py."""
    jpeg_first_prob: Probability = 0.5
    """How often JPEG comes before the resize and the sinc filter. Unit: probability. Source: Real-ESRGAN,
    realesrgan_model.py."""
    resize_modes: Names = RESIZE_MODES
    """Interpolations to the LQ size, each as likely as the others. Source: Real-ESRGAN, realesrgan_model.py."""


class CropConfig(Drawn):
    """`native` cuts at full resolution; `area` first shrinks, so that a crop covers a drawn part of the short side."""

    mode: Literal["native", "area"] = "native"
    """Cut at full resolution, or shrink first, so that a crop covers a drawn share of the short side."""
    cover: Interval = (0.5, 1.0)
    """Share of the short side that a crop covers, with mode area, uniform. Unit: share of the short side."""
    tries: int = Field(4, ge=1, le=64)
    """Crops that are drawn before one is taken that fails the blur or the flat rule. Unit: crops."""
    min_laplacian_variance: float = Field(150.0, ge=0)
    """As rules.min_laplacian_variance of the filter, for the crop. Unit: squared grey levels. Source: arXiv 2509.22414
    v4, data curation."""
    max_laplacian_variance: float = Field(8000.0, ge=0)
    """As rules.max_laplacian_variance of the filter, for the crop. Unit: squared grey levels. Source: arXiv 2509.22414
    v4, data curation."""
    max_flat_fraction: float = Field(0.5, ge=0, le=1)
    """As rules.max_flat_fraction of the filter, for the crop. Unit: share of the patches. Source: arXiv 2509.22414 v4,
    data curation."""
    flip_prob: Probability = 0.5
    """How often a crop is mirrored, left to right. Unit: probability. Source: Real-ESRGAN,
    options/train_realesrgan_x4plus.yml."""
    too_small: Literal["reject", "reflect"] = "reject"
    """Images smaller than the crop: left out, or padded by reflection as Real-ESRGAN does."""


class DegradeConfig(Section):
    """Everything that decides the pixels of a pair, given the HQ image, its key and the variant."""

    seed: int = Field(0, ge=0)
    """Another seed gives other pairs. Unit: seed."""
    size: int = Field(1024, ge=96, le=8192)
    """Side of the HQ. Unit: pixels. Source: arXiv 2509.22414 v4, training at 1024."""
    scale: int = Field(4, ge=1, le=16)
    """Side of the HQ over side of the LQ. Unit: ratio. Source: Real-ESRGAN, options/train_realesrgan_x4plus.yml."""
    crop: CropConfig = CropConfig()
    sharpen_hq: Literal["none", "target", "input-only"] = "none"
    """Unsharp mask: none; target stores the sharpened HQ; input-only degrades it and stores the plain one. Source:
    ours; DreamClear for target."""
    align: Literal["exact", "reference"] = "exact"
    """Resizes map whole images onto each other, or shift as BasicSR's do. Source: ours (docs/degradation.md)."""
    jpeg: Literal["codec", "reference"] = "codec"
    """libjpeg-turbo at the nearest whole quality, or with DiffJPEG's transposed table. Source: ours
    (docs/degradation.md)."""
    first: StageConfig = StageConfig()
    second: StageConfig | None = StageConfig(
        blur_prob=0.8,
        sigma=(0.2, 1.5),
        resize_probs=RESIZE_PROBS_2,
        resize_range=(0.3, 1.2),
        gaussian_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
    )
    final: FinalConfig = FinalConfig()

    @field_validator("sharpen_hq", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return "none" if value is None else value  # `--set sharpen_hq=none`: everywhere else that means no value

    @model_validator(mode="after")
    def _divides(self) -> DegradeConfig:
        if self.size % self.scale:
            raise ValueError(f"size {self.size} is not a multiple of scale {self.scale}")
        if self.size // self.scale < MIN_LQ:
            raise ValueError(
                f"an LQ side of {self.size // self.scale} is under {MIN_LQ}, where a 21-tap blur has no sense"
            )
        return self


_LIGHT_NOISE = {"gaussian_sigma": (1, 15), "poisson_scale": (0.05, 2), "jpeg_quality": (60, 95)}
_LIGHT_KERNELS = {"beta_generalized": (0.5, 2), "beta_plateau": (1, 1.5)}
PRESETS: dict[str, dict[str, object]] = {
    "realesrgan-x4": {},
    "lucidflux": {"sharpen_hq": "target"},
    "light": {
        "first": {**_LIGHT_KERNELS, **_LIGHT_NOISE, "sigma": (0.2, 1.5), "resize_range": (0.3, 1.5)},
        "second": {
            **_LIGHT_KERNELS,
            "blur_prob": 0.5,
            "sigma": (0.2, 1),
            "resize_probs": RESIZE_PROBS_2,
            "resize_range": (0.6, 1.2),
            "gaussian_sigma": (1, 12),
            "poisson_scale": (0.05, 1),
            "jpeg_quality": (60, 100),
        },
    },
    "codeformer": {
        "scale": 1,
        "first": {
            "sinc_prob": 0,
            "kernel_probs": {"iso": 0.5, "aniso": 0.5},
            "kernel_sizes": (41,),
            "sigma": (0.1, 12),
            "resize_probs": {"down": 1},
            "resize_range": (1 / 12, 1),
            "resize_law": "divisor",
            "resize_modes": ("bilinear",),
            "gaussian_prob": 1,
            "gaussian_sigma": (0, 15),
            "gray_prob": 0,
            "jpeg_quality": (30, 100),
        },
        "second": None,
        "final": {"sinc_prob": 0, "jpeg_first_prob": 1, "resize_modes": ("bilinear",)},
    },
}


def make_degrade_config(preset: str = "realesrgan-x4", settings: Iterable[str] = ()) -> DegradeConfig:
    """A preset with settings (`"size=512"`, `"first.sigma=0.2,1.5"`) over it. ConfigError where one is wrong."""
    return resolve(DegradeConfig, read_preset(preset), settings=settings)


def read_preset(name: str) -> dict[str, object]:
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r} of pairs: {suggest(name, PRESETS)}")
    values: dict[str, Any] = DegradeConfig().model_dump()
    for part, value in PRESETS[name].items():
        values[part] = {**values[part], **value} if isinstance(value, dict) else value
    return values
