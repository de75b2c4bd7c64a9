"""What a filter run is told: pydantic models, presets, overrides, digests.

    defaults < preset < --config FILE (TOML) < --set a.b=v      unknown keys are errors

Three digests say which results a change of mind makes obsolete:

    score    sources, sample, pixel budget, parameters of the measures and of their batches, rule of the units
    select   rules and cut
    pack     shard limits
Workers, address, place of output and log level are in none.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lucidflux_data.errors import ConfigError
from lucidflux_data.images import DEFAULT_MAX_PIXELS
from lucidflux_data.measures.blur_and_flat import FLAT_GRADIENT_VARIANCE, MAX_PATCH_PX, PATCH_PX
from lucidflux_data.selection.expression import columns_of

UNIT_RULE = "clamp(ceil(n/256), 8, 1000)"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


AnySection = TypeVar("AnySection", bound=Section)


class DecodeConfig(Section):
    max_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)  # width x height from the header, before anything is allocated
    timeout_s: float = Field(120.0, gt=0)  # of decoding and measuring one image; then decode_timeout


class MeasureConfig(Section):
    patch_px: int = Field(PATCH_PX, ge=3, le=MAX_PATCH_PX)
    flat_gradient_variance: float = Field(FLAT_GRADIENT_VARIANCE, ge=0)


class RulesConfig(Section):
    """Bounds are inclusive: an image exactly on one is kept."""

    min_laplacian_variance: float = Field(150.0, ge=0)
    max_laplacian_variance: float = Field(8000.0, ge=0)
    max_flat_fraction: float = Field(0.5, ge=0, le=1)
    min_side: int = Field(0, ge=0)  # pixels, upright
    # Off unless a number is given; what they tell apart is in docs/performance.md, "curation".
    min_jpeg_quality: int | None = Field(None, ge=1, le=100)  # of the file's own table; no JPEG passes
    max_blockiness: float | None = Field(None, ge=1)
    min_spectral_cutoff: float | None = Field(None, ge=0, le=1)
    min_fixed_sharpness: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> RulesConfig:
        if self.min_laplacian_variance > self.max_laplacian_variance:
            raise ValueError("min_laplacian_variance is over max_laplacian_variance: nothing could be kept")
        return self


class IQAConfig(Section):
    metric: str = "clipiqa"  # a name that lucidflux_data.iqa knows, or "none"
    batch_megapixels: float = Field(8.0, gt=0)  # images of one size that are scored together, where the metric allows
    max_megapixels: float | None = Field(None, gt=0)  # a larger image is scored as `oversize` says
    oversize: Literal["fail", "downscale", "tile"] = "fail"


class CutConfig(Section):
    """The best `top_fraction` of the survivors that have a score, or the best `top_k`."""

    top_fraction: str | None = "0.2"  # text, so that 0.1 is a tenth and not the nearest binary fraction
    top_k: int | None = Field(None, ge=1)

    @field_validator("top_fraction", mode="before")
    @classmethod
    def _decimal(cls, value: object) -> object:
        if value is None:
            return None
        try:
            fraction = Decimal(str(value))
        except InvalidOperation:
            raise ValueError("is not a number") from None
        if not 0 < fraction <= 1:
            raise ValueError("must be over 0 and at most 1")
        return format(fraction.normalize(), "f")

    @model_validator(mode="after")
    def _one(self) -> CutConfig:
        if self.top_k is not None and self.top_fraction is not None:
            raise ValueError("top_fraction and top_k exclude each other: set one to none")
        return self


def _split(value: object) -> object:
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


class SelectConfig(Section):
    """What else decides: lists, joined columns, benchmarks, near-duplicates."""

    opt_out: tuple[str, ...] = ()  # files of sha256, key or uri, one a line
    forbid: tuple[str, ...] = ()  # suites, fingerprint files, folders of benchmark images
    join: tuple[str, ...] = ()  # Parquet files with columns of the user's own
    where: str | None = None
    carry: tuple[str, ...] = ()  # columns that go into ledger, shards and pairs
    near_duplicates: int | None = Field(None, ge=0, le=16)  # Hamming radius of the 64-bit hash

    @field_validator("opt_out", "forbid", "join", "carry", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`--set select.carry=license,photographer`."""
        return _split(value)

    @field_validator("where")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value:
            columns_of(value)
        return value


class ShardConfig(Section):
    max_samples: int = Field(1000, ge=1)
    max_bytes: int = Field(1_000_000_000, ge=10_240)
    strip: tuple[Literal["gps", "author"], ...] = ()  # tags that do not go along; changes bytes and their sha256
    normalize: bool = False  # re-encode, losslessly, the images whose stock decoding differs from ours

    @field_validator("strip", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _split(value)


class StorageConfig(Section):
    """How object stores and web servers are spoken to; changes no result. Credentials stay where their clients look."""

    endpoint_url: str | None = None  # of an S3 compatible store; else AWS_ENDPOINT_URL
    anonymous: bool = False
    timeout_s: float = Field(60.0, gt=0)  # without a connection, or without a byte
    attempts: int = Field(3, ge=1)  # of a request, each with as many of the client library's own


class WorkersConfig(Section):
    """How a metric or scorer is spread; changes no result and is not written into a run."""

    gpus_per_actor: float = Field(1.0, gt=0)  # 0.25: four actors share a GPU; over 1: whole GPUs
    decode_threads: int | None = Field(None, ge=0)  # reading ahead of an actor; none: 4 before a GPU, else 0

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("over 1 only whole GPUs can be given to an actor")
        return value


class FilterConfig(Section):
    """Everything that decides what a filter run gives. `preset` and `modified` are labels, not settings."""

    decode: DecodeConfig = DecodeConfig()
    measures: MeasureConfig = MeasureConfig()
    rules: RulesConfig = RulesConfig()
    iqa: IQAConfig = IQAConfig()
    cut: CutConfig = CutConfig()
    select: SelectConfig = SelectConfig()
    shards: ShardConfig = ShardConfig()
    storage: StorageConfig = StorageConfig()
    workers: WorkersConfig = WorkersConfig()

    def score_part(self) -> dict[str, Any]:
        return {
            "decode": self.decode.model_dump(),
            "measures": self.measures.model_dump(),
            "iqa": self.iqa.model_dump(exclude={"metric"}),
            "unit_rule": UNIT_RULE,
        }

    def select_part(self) -> dict[str, Any]:
        cut = self.cut.model_dump() if self.iqa.metric != "none" else None
        chosen = self.select.model_dump(mode="json")
        return {"rules": self.rules.model_dump(), "metric": self.iqa.metric, "cut": cut, "select": chosen}

    def pack_part(self) -> dict[str, Any]:
        return {"shards": self.shards.model_dump()}


# `lucidflux`: arXiv 2509.22414 v4, data curation (blur 150..8000, flat 800 / 50%, CLIP-IQA top 20%).
# `strict`: beyond the paper; limits at which about one clean photo in twenty is lost (docs/performance.md).
# `demo`: the same rules with a metric that needs no download and a cut that leaves something of a handful of photos.
PRESETS: dict[str, dict[str, Any]] = {
    "lucidflux": {},
    "strict": {
        "rules": {
            "min_side": 512,
            "min_jpeg_quality": 75,
            "max_blockiness": 1.2,
            "min_spectral_cutoff": 0.55,
            "min_fixed_sharpness": 2.5,
        },
        "select": {"near_duplicates": 4},
    },
    "demo": {"iqa": {"metric": "niqe"}, "cut": {"top_fraction": "0.5"}},
}


def digest(content: Any) -> str:
    """sha256 (hex) of the canonical JSON of `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def make_config(
    preset: str = "lucidflux",
    file: str | None = None,
    settings: Iterable[str] = (),
    base: FilterConfig | None = None,
) -> FilterConfig:
    """The resolved config; `base` (of an existing run) takes the place of the preset. Raises ConfigError."""
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
    values: dict[str, Any] = base.model_dump() if base is not None else PRESETS[preset]
    return resolve(FilterConfig, values, file, settings)


def resolve(
    kind: type[AnySection], values: Mapping[str, Any], file: str | None = None, settings: Iterable[str] = ()
) -> AnySection:
    """The config of any command: `values` < `file` (TOML) < `settings` (a.b=v), checked. Raises ConfigError."""
    if file is not None:
        values = _merged(values, _read_toml(file))
    for setting in settings:
        values = _merged(values, _parse_setting(setting))
    return _validated(kind, values)


def label(preset: str, config: FilterConfig) -> str:
    """`lucidflux`, or `lucidflux (modified: iqa=niqe, rules.min_side=1024)` where it differs from the preset."""
    return described(
        preset, make_config(preset), config.model_copy(update={"storage": StorageConfig(), "workers": WorkersConfig()})
    )


def described(preset: str, plain: Section, config: Section) -> str:
    """The name of a preset and what `config` changes of it (`plain`)."""
    changes = []
    before, after = dotted(plain.model_dump()), dotted(config.model_dump())
    for name, value in after.items():
        if name not in before or value != before[name]:
            changes.append(f"{'iqa' if name == 'iqa.metric' else name}={'none' if value is None else value}")
    return f"{preset} (modified: {', '.join(changes)})" if changes else preset


def _validated(kind: type[AnySection], values: Mapping[str, Any]) -> AnySection:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"there is no setting {name}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}: {message[0].lower()}{message[1:]}" if name else message) from None


def _read_toml(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the config file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {file} is not TOML: {error}") from None


def _parse_setting(setting: str) -> dict[str, Any]:
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set takes name=value, not {setting!r}")
    value: Any = None if text.lower() == "none" and name != "iqa.metric" else text
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    return value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        flat.update(inner)
    return flat
