"""Pairs of a folder by their place, read from shards as they are asked for."""

from __future__ import annotations

import bisect
import itertools
import operator
import os

from lucidflux_data.audit.forget import is_half_done
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples
from lucidflux_data.pairs.pair import Pair
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder, configure, trust_sources
from lucidflux_data.storage.formats import parse_json

KEPT_INDICES = 64  # of shards, in each process: some 1 MB for a shard of 1,000 pairs


class StoredPairs:
    """A sequence of Pair. It can be sent between processes; the indices of the latest shards are kept."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = Folder(os.path.expanduser(path))
        self.run = pairs_run.read(self.folder)
        self.config = pairs_run.read_config(self.folder)
        if is_half_done(self.folder):
            raise InputError(f"`lucidflux-data forget` is not through with {self.folder}: repeat it")
        entries = shards.read_manifest(self.folder)["shards"]
        self.shards = [entry["name"] for entry in entries]
        self._ends = list(itertools.accumulate(entry["samples"] for entry in entries))
        self._indices: dict[str, list[tuple[str, list[shards.IndexRow]]]] = {}  # the latest ones, by shard
        self._configure()

    def _configure(self) -> None:
        """In a worker that was spawned, too."""
        configure(self.config.storage.model_dump())
        trust_sources(self.run["sources"])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_indices": {}}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._configure()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Pair:
        """The pair at a place, in order of the shards and of the keys. IndexError beyond the last one; InputError where
        its bytes are others than its index says, or where an HQ that is a pointer leads to nothing."""
        try:
            place = range(len(self))[operator.index(index)]
        except TypeError:
            raise ConfigError(f"a pair is asked for by its place, a whole number, not by {index!r}") from None
        number = bisect.bisect_right(self._ends, place)
        key, rows = self._index(self.shards[number])[place - (self._ends[number - 1] if number else 0)]
        return self.decode(key, samples.read_sample(self.folder, self.shards[number], rows))

    def _index(self, shard: str) -> list[tuple[str, list[shards.IndexRow]]]:
        """The samples of a shard with their rows of its index, in order of the keys."""
        found = self._indices.pop(shard, None)
        if found is None:
            found = list(samples.samples_of_index(self.folder, shard).items())
        self._indices[shard] = found
        if len(self._indices) > KEPT_INDICES:
            del self._indices[next(iter(self._indices))]
        return found

    def decode(self, key: str, members: dict[str, bytes]) -> Pair:
        """The pair of a sample of these shards. `members`: by extension (`hq.png`, `lq.png`, `json`)."""
        record = parse_json(members["json"])
        hq = samples.stored_hq(members, record, self.run["sources"])
        pixels = pairs.hq_pixels(record, hq, self.config.degrade.crop)
        return Pair(key, members, pixels, pixels_apart(members["lq.png"]))
