"""Settings of a filter run. Three digests say which results a change of settings makes obsolete:

    score    sources, sample, pixel budget, parameters of the measures and of their batches, rule of the units
    select   rules and cut
    pack     shard limits

Workers, address, place of output and log level are in none.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Literal

from pydantic import Field, field_validator, model_validator

from lucidflux_data.config import Section, deciding_values, describe_changes, resolve, since, split_list
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.iqa.config import IQAConfig
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.selection.expression import columns_of
from lucidflux_data.shards.config import ShardConfig
from lucidflux_data.storage.config import StorageConfig

SMALLEST_FRACTION = Decimal("1e-18")
UNIT_RULE = "clamp(ceil(n/256), 8, 1000)"
# `lucidflux`: arXiv 2509.22414 v4, data curation (blur 150..8000, flat 800 / 50%, CLIP-IQA top 20%).
# `strict`: beyond the paper; limits at which about one clean photo in twenty is lost (docs/performance.md).
# `demo`: the same rules with a metric that needs no download and a cut that leaves something of a handful of photos.
PRESETS: dict[str, dict[str, object]] = {
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
        if not fraction.is_finite() or not 0 < fraction <= 1:
            raise ValueError("must be over 0 and at most 1")
        if fraction < SMALLEST_FRACTION:
            raise ValueError(f"must be at least {SMALLEST_FRACTION}: less is none of any set")
        return format(fraction.normalize(), "f")

    @model_validator(mode="after")
    def _one(self) -> CutConfig:
        if self.top_k is not None and self.top_fraction is not None:
            raise ValueError("top_fraction and top_k exclude each other: set one to none")
        return self


class SelectConfig(Section):
    """What else decides: lists, joined columns, benchmarks, near-duplicates."""

    opt_out: tuple[str, ...] = ()  # files of sha256, key or uri, one a line
    forbid: tuple[str, ...] = ()  # suites, fingerprint files, folders of benchmark images
    # A suite that is not there: stop, or warn and go on NOT checked. It changes no result and is in no digest.
    forbid_missing: Literal["stop", "warn"] = Field("stop", json_schema_extra=since("0.3.0"))
    join: tuple[str, ...] = ()  # Parquet files with columns of the user's own
    where: str | None = None
    carry: tuple[str, ...] = ()  # columns that go into ledger, shards and pairs
    near_duplicates: int | None = Field(None, ge=0, le=16)  # Hamming radius of the 64-bit hash

    @field_validator("opt_out", "forbid", "join", "carry", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`--set select.carry=license,photographer`."""
        return split_list(value)

    @field_validator("where")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value:
            columns_of(value)
        return value


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

    def score_part(self) -> dict[str, object]:
        return {
            "decode": deciding_values(self.decode),
            "measures": deciding_values(self.measures),
            "iqa": {name: value for name, value in deciding_values(self.iqa).items() if name != "metric"},
            "unit_rule": UNIT_RULE,
        }

    def select_part(self) -> dict[str, object]:
        cut = deciding_values(self.cut) if self.iqa.metric != "none" else None
        chosen = deciding_values(self.select)
        chosen.pop("forbid_missing", None)
        return {"rules": deciding_values(self.rules), "metric": self.iqa.metric, "cut": cut, "select": chosen}

    def pack_part(self) -> dict[str, object]:
        return {"shards": deciding_values(self.shards)}


def make_config(
    preset: str = "lucidflux",
    file: str | None = None,
    settings: Iterable[str] = (),
    base: FilterConfig | None = None,
) -> FilterConfig:
    """The resolved config; `base` (of an existing run) takes the place of the preset. Raises ConfigError."""
    if preset not in PRESETS:
        raise ConfigError(f"there is no preset {preset!r}: {suggest(preset, PRESETS)}")
    values: dict[str, object] = base.model_dump() if base is not None else PRESETS[preset]
    return resolve(FilterConfig, values, file, settings)


def label(preset: str, config: FilterConfig, not_checked: Iterable[str] = ()) -> str:
    """`lucidflux`, or `lucidflux (modified: iqa=niqe, rules.min_side=1024)` where it differs from the preset.

    `not_checked`: forbidden suites that the set was not compared with, or not as a whole; the label names them.
    """
    plain = {"storage": StorageConfig(), "workers": WorkersConfig()}
    told = describe_changes(preset, make_config(preset), config.model_copy(update=plain))
    return "; NOT checked against ".join([told, *([", ".join(not_checked)] if not_checked else [])])
