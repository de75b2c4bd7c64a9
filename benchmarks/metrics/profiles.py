"""Profiles and metrics: which columns a leaderboard has, what each needs, and the fingerprint of how it is computed.

A metric's fingerprint is a digest of its name, parameters, weights, library versions (also of the decoders) and kind of
device. A score is kept under (fingerprint, image, reference), so that whatever changes the number changes the key.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NotRequired, Self, TypedDict

from pydantic import Field, field_validator, model_validator

from benchmarks.data_files import FileModel, Flag, FromZero, Text, Word, read_toml, validate
from benchmarks.metrics import outside, weights
from benchmarks.metrics.terms import NTIRE_COMMIT, TERMS
from lucidflux_data.codecs.version import decoder_versions
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.iqa import metrics as iqa
from lucidflux_data.iqa.weight_files import WEIGHTS

PROFILES_FILE = Path(__file__).with_name("profiles.toml")
OWN = ("niqe", "psnr", "ssim", "lr_consistency")  # computed by this package alone; clipiqa by it on open_clip
# Libraries that make a network around pyiqa's, by where its backbone's files lie.
BACKBONES = {"hf:timm/": "timm", "hf:q-future/": "transformers", "hf:openai/": "transformers"}
CLIP = ("clipiqa", *weights.FEATURES)
OWN_VERSION = 1  # raised when one of OWN gives other numbers
SMALL_FID_SET = 2048  # images; below the feature dimension the covariance is singular and FID is biased upwards


class Parameters(TypedDict):
    """What a metric was computed with, as it stands in run.json and in the fingerprint."""

    crop: int  # pixels that are left out at each border
    channel: NotRequired[str]  # of psnr and ssim: rgb, yiq or ycbcr


@dataclass(frozen=True)
class MetricSpec:
    """One column. `needs`: nothing, `gt` (the reference), `lq` (the input), `set` (all images and the reference) or
    `terms` (the scores of other columns).
    `asked`: named by the user, so that it runs on a CPU too where a profile leaves it to a GPU. `draw`: of a stochastic
    metric of an environment of its own, from 1; else 0."""

    name: str
    channel: str | None = None
    crop: int = 0
    ranked: bool = True
    asked: bool = False
    draw: int = 0

    @property
    def outside(self) -> bool:
        """Whether it runs in an environment of its own (outside.py)."""
        return self.name not in iqa.METRICS and self.name in outside.outside_names()

    @property
    def draws(self) -> int:
        """How often each image is scored: more than once where answers are drawn."""
        return outside.DRAWS if self.outside and outside.load_outside(self.name).stochastic else 1

    @property
    def needs(self) -> str:
        if self.name in TERMS:
            return "terms"
        if self.outside:
            return "nothing"
        if self.name in ("lr_consistency", "feature_distance_lq"):
            return "lq"
        if self.name == "fid":
            return "set"
        if self.name == "feature_distance":
            return "gt"
        return "gt" if iqa.metric(self.name).full_reference else "nothing"

    @property
    def lower_is_better(self) -> bool:
        if self.name in TERMS:
            return False
        if self.name in weights.FEATURES:
            return True
        if self.outside:
            return outside.load_outside(self.name).lower_is_better
        return self.name == "fid" or (self.name != "lr_consistency" and iqa.lower_is_better(self.name))

    @property
    def sign(self) -> int:
        """Multiplies values so that more is better."""
        return -1 if self.lower_is_better else 1

    def parameters(self) -> Parameters:
        values: Parameters = {"crop": self.crop}
        if self.name in ("psnr", "ssim"):
            values["channel"] = self.channel or {"psnr": "rgb", "ssim": "yiq"}[self.name]
        return values

    def fingerprint(self, device: str) -> str:
        """Hex digits. ConfigError where weights or packages are missing."""
        if self.outside:
            return outside.fingerprint(self.name, self.draw)
        versions = {name: importlib.metadata.version(name) for name in self._packages()}
        for name in versions.keys() & {
            "torch",
            "torchvision",
        }:  # not the build, +cpu or +cu124
            versions[name] = ".".join(versions[name].split(".")[:2])
        if self.name in (*OWN, *CLIP):
            versions["lucidflux-metrics"] = str(OWN_VERSION)
        versions |= {f"decoder {name}": value for name, value in decoder_versions().items()}
        kind = "cpu" if self.name in OWN else device
        return digest([self.name, self.parameters(), weights.digest_of(self.name), versions, kind])[:16]

    def _packages(self) -> tuple[str, ...]:
        """The distributions whose version can change a number."""
        if self.name in OWN:
            return ("numpy", "opencv-python-headless")
        if self.name in CLIP:
            return ("open_clip_torch", "torch")
        files = WEIGHTS.get(self.name, ())
        backbones = {name for file in files for start, name in BACKBONES.items() if file.startswith(start)}
        return ("pyiqa", "torch", "torchvision", *sorted(backbones))

    def signature(self, device: str) -> str:
        """`niqe:lucidflux1+nocrop+ab12cd34`: what to quote beside a number."""
        if self.name in TERMS:
            return f"{self.name}:{NTIRE_COMMIT}"
        if self.outside:
            return f"{self.name}:{outside.load_outside(self.name).commit}+{self.fingerprint(device)[:8]}"
        own = self.name in (*OWN, *CLIP)
        made_by = f"lucidflux{OWN_VERSION}" if own else f"pyiqa{importlib.metadata.version('pyiqa')}"
        parts = [made_by, f"crop{self.crop}" if self.crop else "nocrop"]
        if "channel" in self.parameters():
            parts.append(self.parameters()["channel"])
        return f"{self.name}:{'+'.join([*parts, self.fingerprint(device)[:8]])}"


class ProfileRow(FileModel):
    """One row of `metrics` in a profile, see profiles.toml."""

    name: Word
    channel: Literal["rgb", "yiq", "ycbcr"] | None = None
    crop: FromZero = 0
    ranked: Flag = True

    @field_validator("name")
    @classmethod
    def _is_a_metric(cls, name: str) -> str:
        try:
            check_metric(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _has_a_channel_to_choose(self) -> Self:
        if self.channel is not None and self.name not in ("psnr", "ssim"):
            raise ValueError(f"channel: {self.name} has none to choose, psnr and ssim have")
        return self


class ProfileTable(FileModel):
    """One table of profiles.toml."""

    about: Text
    metrics: Annotated[tuple[ProfileRow, ...], Field(min_length=1)]
    groups: dict[Word, Annotated[tuple[Word, ...], Field(min_length=1)]]

    @model_validator(mode="after")
    def _groups_ranked_metrics(self) -> Self:
        names = [row.name for row in self.metrics]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"metrics: {twice[0]} is there twice")
        ranked = {row.name for row in self.metrics if row.ranked}
        for group, members in self.groups.items():
            for name in members:
                if name not in ranked:
                    raise ValueError(f"groups.{group}: {name} is no ranked metric of this profile")
        return self


@dataclass(frozen=True)
class Profile:
    """`groups`: metric names over which an overall rank may be named."""

    name: str
    about: str
    metrics: tuple[MetricSpec, ...]
    groups: dict[str, tuple[str, ...]]


def profile_names() -> list[str]:
    return list(_read_profiles())


def load_profile(name: str) -> Profile:
    """A profile by name. ConfigError for an unknown one."""
    profiles = _read_profiles()
    if name not in profiles:
        raise ConfigError(f"there is no profile {name!r}: {suggest(name, profiles)}")
    content = validate(ProfileTable, profiles[name], PROFILES_FILE, below=name)
    return Profile(name, content.about, tuple(MetricSpec(**dict(row)) for row in content.metrics), content.groups)


def check_metric(name: str) -> None:
    """ConfigError for a metric that there is not, with the nearest names."""
    if name not in ("lr_consistency", "fid", *weights.FEATURES, *TERMS, *outside.outside_names()):
        iqa.metric(name)


def profile_of_metrics(names: list[str]) -> Profile:
    """An unnamed profile of `--metrics a,b`, each with its default parameters. ConfigError for an unknown metric."""
    if not names:
        raise ConfigError("--metrics names no metric")
    if len(set(names)) != len(names):
        raise ConfigError("--metrics names a metric twice")
    for name in names:
        check_metric(name)
    metrics = tuple(
        MetricSpec(name, ranked=name not in ("lr_consistency", *weights.FEATURES), asked=True) for name in names
    )
    return Profile("metrics", f"Metrics asked for: {', '.join(names)}.", metrics, {})


def _read_profiles() -> dict[str, object]:
    return read_toml(PROFILES_FILE)
