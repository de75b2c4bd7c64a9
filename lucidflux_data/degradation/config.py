"""What a degradation is told, and the presets with the source of every value.

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
    """One stage. Sigmas of blurs in pixels, of noise in grey levels (0..255), cut-offs in radians a pixel."""

    blur_prob: Probability = 1.0
    sinc_prob: Probability = 0.1  # a sinc filter in place of the Gaussian families
    kernel_probs: dict[str, float] = Field(default_factory=lambda: KERNEL_PROBS)
    kernel_sizes: Sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    sigma: Interval = (0.2, 3.0)
    beta_generalized: Interval = (0.5, 4.0)
    beta_plateau: Interval = (1.0, 2.0)
    resize_probs: dict[str, float] = Field(default_factory=lambda: RESIZE_PROBS)
    resize_range: Interval = (0.15, 1.5)  # of the HQ side in the first stage, of the LQ side in the second
    resize_law: Literal["scale", "divisor"] = "scale"  # uniform in the scale, or in one over it (down only)
    resize_modes: Names = RESIZE_MODES
    gaussian_prob: Probability = 0.5  # else Poisson
    gaussian_sigma: Interval = (1.0, 30.0)
    poisson_scale: Interval = (0.05, 3.0)
    gray_prob: Probability = 0.4
    jpeg_quality: Interval = (30.0, 95.0)

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
    """The way to the LQ size: resize and sinc filter together, JPEG before or after them."""

    sinc_prob: Probability = 0.8
    kernel_sizes: Sizes = (7, 9, 11, 13, 15, 17, 19, 21)
    sinc_cutoff: Interval = (math.pi / 3, math.pi)
    jpeg_first_prob: Probability = 0.5
    resize_modes: Names = RESIZE_MODES


class CropConfig(Drawn):
    """`native` cuts at full resolution; `area` first shrinks, so that a crop covers a drawn part of the short side."""

    mode: Literal["native", "area"] = "native"
    cover: Interval = (0.5, 1.0)  # of the short side; `area` only
    tries: int = Field(4, ge=1, le=64)  # a crop that fails the filter's blur or flat rule is drawn again
    min_laplacian_variance: float = Field(150.0, ge=0)
    max_laplacian_variance: float = Field(8000.0, ge=0)
    max_flat_fraction: float = Field(0.5, ge=0, le=1)
    flip_prob: Probability = 0.5  # left-right
    too_small: Literal["reject", "reflect"] = "reject"


class DegradeConfig(Section):
    """Everything that decides the pixels of a pair, given the HQ image, its key and the variant."""

    seed: int = Field(0, ge=0)
    size: int = Field(1024, ge=96, le=8192)  # side of the HQ in pixels
    scale: int = Field(4, ge=1, le=16)  # LQ side = size / scale
    crop: CropConfig = CropConfig()
    sharpen_hq: Literal["none", "target", "input-only"] = "none"
    align: Literal["exact", "reference"] = "exact"
    jpeg: Literal["codec", "reference"] = "codec"
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
