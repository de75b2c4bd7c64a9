"""Stored pairs as a WebDataset pipeline, ready for a DataLoader on one machine or many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.utils import pytorch_worker_info

from lucidflux_data.errors import ConfigError
from lucidflux_data.pairs.dataset import Item
from lucidflux_data.surface.stored import StoredPairs
from lucidflux_data.surface.torch_pairs import as_item


def make_pipeline(pairs: StoredPairs, shuffle: int, seed: int) -> Any:
    """A webdataset.DataPipeline of items; see `Pairs.webdataset`."""
    if shuffle < 0:
        raise ConfigError(f"shuffle is a number of pairs, or 0, not {shuffle}")
    if not pairs.shards:
        raise ConfigError(f"{pairs.folder} has no pairs")
    stages = [wds.SimpleShardList(pairs.shards, seed=seed if shuffle else None), Share(), wds.split_by_node,
              wds.split_by_worker, Samples(pairs)]  # fmt: skip
    if shuffle:
        stages.append(wds.detshuffle(shuffle, seed=seed))
    return wds.DataPipeline(*stages, Decode(pairs))


class Share:
    """Lets shards through where each reader gets one: a node with none would wait for the others for ever."""

    def __call__(self, urls: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        listed = list(urls)
        _, nodes, _, workers = pytorch_worker_info()
        if len(listed) < nodes * workers:
            raise ConfigError(
                f"{len(listed)} shards cannot be split over {nodes} nodes with {workers} workers each: use fewer "
                "workers, or make more shards (`synthesize --set shards.max_samples=N`)"
            )
        yield from listed


class Samples:
    """The samples of shards, read through the folder, so from any store."""

    def __init__(self, pairs: StoredPairs) -> None:
        self.pairs = pairs

    def __call__(self, urls: Iterable[dict[str, str]]) -> Iterator[dict[str, Any]]:
        for entry in urls:
            with self.pairs.folder.open(f"shards/{entry['url']}") as stream:
                yield from group_by_keys(tar_file_expander([{**entry, "stream": stream}]))


class Decode:
    """The item of each sample."""

    def __init__(self, pairs: StoredPairs) -> None:
        self.pairs = pairs

    def __call__(self, found: Iterable[dict[str, Any]]) -> Iterator[Item]:
        for sample in found:
            members = {name: data for name, data in sample.items() if not name.startswith("__")}
            yield as_item(self.pairs.decode(sample["__key__"], members))
