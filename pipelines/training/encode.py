"""`lucidflux cache`: one task encodes one shard of pairs with the frozen parts; shards that are there stay.

The loader reads what comes out with `--set data.cached=latent,proxy,semantic`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypedDict

import numpy as np
import torch

from lucidflux_data.codecs.version import DECODER_VERSION, FIRST, decoder_libraries
from lucidflux_data.config import digest
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import TarWriter
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_data.storage.lease import hold
from lucidflux_model.network.device import pick_device
from lucidflux_model.samples.cached import DECODER, cache_folder, samples
from lucidflux_model.samples.sources import open_shards
from lucidflux_model.samples.stored import ShardPairs
from lucidflux_model.training.config import TrainConfig
from lucidflux_model.training.setup import base_digest, computes_in_bf16, frozen_parts
from pipelines.execution.counting import counted
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit

ENCODERS = ("vae", "proxy", "image_encoder")


class CacheSummary(TypedDict):
    cache: str  # its folder
    pairs: int
    shards: int
    kinds: str  # by commas


@dataclass
class CacheShard:
    """Encodes the pairs of a shard; model and index are loaded once a process."""

    pairs: str
    config: TrainConfig
    kinds: tuple[str, ...]
    plan_digest: str
    device: str
    _loaded: Any = field(default=None, repr=False)

    def __call__(self, unit: Unit[int]) -> Iterator[File]:
        if self._loaded is None:
            self._loaded = (self._parts(), open_shards([self.pairs], Folder(self.pairs)))
        parts, source = self._loaded
        indices = np.flatnonzero(source.shard_of == unit.payload).tolist()
        writer = TarWriter()
        yield f"shards/{unit.name}.tar", writer.chunks(samples(parts, source, counted(indices), self.kinds))
        about = {DECODER: str(DECODER_VERSION), "decoders": json.dumps(decoder_libraries())}
        yield f"shards/{shards.index_name(unit.name)}", writer.index_bytes(self.plan_digest, about)

    def _parts(self) -> SimpleNamespace:
        place = pick_device(self.device)
        dtype = torch.bfloat16 if computes_in_bf16(self.config, place) else torch.float32
        parts = frozen_parts(self.config, dtype, ENCODERS)
        return SimpleNamespace(**{name: part.requires_grad_(False).to(place) for name, part in parts.items()})


def check(pairs: str, config: TrainConfig) -> None:
    """What `cache` would raise before it works: for pairs that are not there, a model that cannot be had."""
    configure(config.storage.model_dump())
    open_shards([pairs], Folder(pairs))
    base_digest(config)


def cache(
    pairs: str,
    config: TrainConfig,
    kinds: tuple[str, ...],
    device: str,
    executor: Executor,
    progress: Progress,
    wait_s: float = 0.0,
) -> CacheSummary:
    """Publishes the shards that are not there yet; a summary. `wait_s`: as of lease.hold."""
    configure(config.storage.model_dump())
    source: ShardPairs = open_shards([pairs], Folder(pairs))
    base = base_digest(config)
    folder = cache_folder(Folder(pairs), base)
    made_of: dict[str, object] = {
        "pairs": source.digest(),
        "base": base,
        "kinds": sorted(kinds),
        "precision": config.precision,
    }
    if source.decoder > FIRST:  # a cache of before is good where the pixels are those of before
        made_of["decoder"] = source.decoder
    plan = digest(made_of)
    titles = [url.rpartition("/")[2].removesuffix(".tar") for url in source.shards]
    counts = np.bincount(source.shard_of, minlength=len(titles)).tolist()
    work = CacheShard(pairs, config, kinds, plan, device)
    with hold(folder, wait_s, new=True):
        names = set(folder.names("shards"))
        todo = [i for i, name in enumerate(titles) if not shards.is_complete(folder, "shards", name, names, plan)]
        units = [Unit(titles[i], counts[i], i) for i in todo]
        left = sum(unit.size for unit in units)
        with progress.phase("cache", left, len(source) - left) as advance:
            for unit in run(executor, "cache", units, work, folder, stateful=True):
                advance(unit.size)
        folder.sweep()
    return {"cache": str(folder), "pairs": len(source), "shards": len(titles), "kinds": ",".join(kinds)}
