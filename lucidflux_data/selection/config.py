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

from lucidflux_data.config import (
    Section,
    deciding_values,
    describe_changes,
    resolve,
    since,
    split_list,
)
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
    """Least variance of the Laplacian of the luma; below it an image is too_blurry. Unit: squared grey levels. Source:
    arXiv 2509.22414 v4, data curation."""
    max_laplacian_variance: float = Field(8000.0, ge=0)
    """Greatest variance of the Laplacian of the luma; over it an image is too_sharp. Unit: squared grey levels. Source:
    arXiv 2509.22414 v4, data curation."""
    max_flat_fraction: float = Field(0.5, ge=0, le=1)
    """Greatest share of flat patches; over it an image is too_flat. Unit: share of the patches. Source: arXiv
    2509.22414 v4, data curation."""
    min_side: int = Field(0, ge=0)
    """Least shorter side, upright; below it an image is too_small. 0 is off. Unit: pixels."""
    # Off unless a number is given; what they tell apart is in docs/performance.md, "curation".
    min_jpeg_quality: int | None = Field(None, ge=1, le=100)
    """Least quality of the file's own JPEG table; below it jpeg_artifacts. No JPEG passes. Unit: libjpeg quality.
    Source: docs/performance.md, curation (the limit of preset strict)."""
    max_blockiness: float | None = Field(None, ge=1)
    """Greatest step over the 8x8 grid beside the steps within; over it jpeg_artifacts. Unit: ratio. Source:
    docs/performance.md, curation (the limit of preset strict)."""
    min_spectral_cutoff: float | None = Field(None, ge=0, le=1)
    """Least share of the frequency range in use; below it an image is upscaled. Unit: share of Nyquist. Source:
    docs/performance.md, curation (the limit of preset strict)."""
    min_fixed_sharpness: float | None = Field(None, ge=0)
    """Least sharpness at a short side of 512 px, noise not counted; below it an image is soft. Unit: squared
    grey levels. Source: docs/performance.md, curation (the limit of preset strict)."""

    @model_validator(mode="after")
    def _ordered(self) -> RulesConfig:
        if self.min_laplacian_variance > self.max_laplacian_variance:
            raise ValueError("min_laplacian_variance is over max_laplacian_variance: nothing could be kept")
        return self


class CutConfig(Section):
    """The best `top_fraction` of the survivors that have a score, or the best `top_k`."""

    top_fraction: str | None = "0.2"
    """The best share of the survivors that have a score; text, so that 0.1 is a tenth and not the nearest binary
    fraction. Unit: share of the survivors. Source: arXiv 2509.22414 v4, data curation."""
    top_k: int | None = Field(None, ge=1)
    """The best N of the survivors, in place of top_fraction. Unit: images."""

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

    opt_out: tuple[str, ...] = ()
    """Files of sha256, keys or uris, one a line: these images and their copies are left out."""
    forbid: tuple[str, ...] = ()
    """Suites, fingerprint files or folders of benchmark images: no image of theirs gets in."""
    forbid_missing: Literal["stop", "warn"] = Field("stop", json_schema_extra=since("0.3.0"))
    """A suite of `forbid` that is not there: stop with exit 2, or warn and go on NOT checked. It is in no digest."""
    join: tuple[str, ...] = ()
    """Parquet files with columns of your own, by uri, key, sha256 or source_key."""
    where: str | None = None
    """An expression over joined columns and measures; only what it is true of is kept."""
    carry: tuple[str, ...] = ()
    """Columns that go along into ledger, shards and pairs."""
    where_tile: str | None = Field(None, json_schema_extra=since("0.5.0", silent=True))
    """An expression over the measures of a tile: those of which it is true are good, and crops lie in them alone."""
    min_good_tiles: float | None = Field(None, ge=0, le=1, json_schema_extra=since("0.5.0", silent=True))
    """Least share of good tiles; below it, and without any, too_few_good_tiles. None: one. Unit: share of the tiles."""
    embedding: str | None = Field(None, json_schema_extra=since("0.5.0", silent=True))
    """The column of vectors of a scorer, for semantic_duplicates and balance; none: the only one that there is."""
    semantic_duplicates: float | None = Field(None, gt=0, le=1, json_schema_extra=since("0.5.0", silent=True))
    """Least cosine of the vectors of images that show the same, of which the best stays. Unit: cosine."""
    quota: tuple[str, ...] = Field((), json_schema_extra=since("0.5.0", silent=True))
    """COLUMN=MAX: at most so many images of each value of a column, the best of them."""
    balance: int | None = Field(None, ge=2, json_schema_extra=since("0.5.0", silent=True))
    """Clusters of vectors among which the cut is spread evenly, so that rare ones stay whole. Unit: clusters."""
    near_duplicates: int | None = Field(None, ge=0, le=16)
    """Radius within which the best of images that look alike stays. Unit: bits of a 64-bit hash. Source:
    docs/performance.md, curation (4 in preset strict)."""

    @field_validator("opt_out", "forbid", "join", "carry", "quota", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """`--set select.carry=license,photographer`."""
        return split_list(value)

    @field_validator("quota")
    @classmethod
    def _limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            name, equals, most = one.rpartition("=")
            if not equals or not name or not most.isdigit() or int(most) < 1:
                raise ValueError(f"{one!r} is not COLUMN=MAX with a whole number from 1 on")
        return value

    @field_validator("where", "where_tile")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value:
            columns_of(value)
        return value


class WorkersConfig(Section):
    """How a metric or scorer is spread; changes no result and is not written into a run."""

    gpus_per_actor: float = Field(1.0, gt=0)
    """GPUs that an actor of a metric or scorer takes; 0.25: four actors share one. Over 1: whole ones. Unit: GPUs."""
    decode_threads: int | None = Field(None, ge=0)
    """Threads that read and decode ahead of an actor; none: 4 in front of a GPU, else 0. Unit: threads."""

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
    sentence = describe_changes(preset, make_config(preset), config)
    return "; NOT checked against ".join([sentence, *([", ".join(not_checked)] if not_checked else [])])
