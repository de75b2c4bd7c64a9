"""Where pairs come from. Those to train on answer `groups`, `key`, `shard_of`, `size` and `read(index, epoch)`.

    ShardPairs     pair shards by their index, or stock WebDataset tars with members hq.* and lq.*; local or a url
    OnlinePairs    clean images, degraded as they are read: epoch e is variant e

A sample is one ranged read. `Unreadable` is a sample's own trouble, which the loader counts and replaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lucidflux_data.config import digest
from lucidflux_data.errors import InputError
from lucidflux_data.images import upsample_lq
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.uris import split_member
from lucidflux_data.storage.folder import Folder, absolute_url, trust_sources
from lucidflux_data.storage.run_folder import forgotten_keys
from lucidflux_model.samples.listed import Listed
from lucidflux_model.samples.own import own_pairs
from lucidflux_model.samples.reading import Unreadable
from lucidflux_model.samples.stock import stock_pairs
from lucidflux_model.samples.stored import Pixels, ShardPairs

FILES_READ_TOGETHER = 1000  # images outside tars


class OnlinePairs:
    """`RealESRGANPairs` as a source of pairs: variant = epoch, and the same pixels as `synthesize` stores."""

    def __init__(self, sources: Sequence[str], preset: str, seed: int, settings: Sequence[str]) -> None:
        from lucidflux_data import RealESRGANPairs

        self._pairs = RealESRGANPairs(list(sources) if len(sources) > 1 else sources[0], preset, seed, settings)
        # Images in tars are read tar by tar, files in runs of a thousand.
        numbers: dict[str | int, int] = {}
        self.shard_of = np.empty(len(self._pairs), np.int32)
        for index, row in enumerate(self._pairs.rows):
            place = split_member(row["uri"]) if row["offset"] >= 0 else index // FILES_READ_TOGETHER
            self.shard_of[index] = numbers.setdefault(place, len(numbers))
        self.size = (self._pairs.config.size,) * 2
        folders = [Folder(source) for source in sources]
        left_out = Counter(self._pairs.skipped.values())
        self.listed: Listed = {
            "warnings": self._pairs.warnings,
            "ignored_by": self._pairs.ignored_by,
            "left_out": dict(sorted(left_out.items())),
        }
        self.forgotten = sum(len(forgotten_keys(folder)) for folder in folders if folder.exists(shards.MANIFEST))

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def groups(self) -> list[str]:
        """The group of each image; a list that is made anew."""
        return [row["group"] or row["key"] for row in self._pairs.rows]

    def key(self, index: int, epoch: int) -> str:
        return f"{self._pairs.rows[index]['key']}_{epoch:02d}"

    def digest(self) -> str:
        return digest([[row["key"] for row in self._pairs.rows], self._pairs.config.model_dump()])

    def read(self, index: int, epoch: int) -> Pixels:
        try:
            hq, lq = self._pairs.pair(index, epoch)
        except InputError as error:
            raise Unreadable(str(error)) from None
        return hq, upsample_lq(lq, *hq.shape[:2])


PairSource = ShardPairs | OnlinePairs


def open_shards(sources: Sequence[str], index: Folder, look: bool = True, keep: bool = True) -> ShardPairs:
    """`sources`: one folder of pairs, or tars, globs and folders of tars, whose index is kept in `index`; `look`,
    `keep`: as of stock_pairs.

    Raises InputError where there are no pairs, or a pair lacks a member.
    """
    trust_sources([absolute_url(source) for source in sources])
    folder = Folder(sources[0])
    if sources[0].lower().endswith(".tar"):
        return ShardPairs(*stock_pairs(sources, index, look, keep))
    if len(sources) == 1 and folder.exists(shards.MANIFEST):
        if not pairs_run.is_pairs(folder):
            raise InputError(
                f"{folder} holds clean images, not pairs: synthesize them, or set data.online=realesrgan-x4"
            )
        return ShardPairs(*own_pairs(folder))
    if len(sources) == 1 and folder.exists("run.json"):
        raise InputError(f"{folder} was not made to the end (no {shards.MANIFEST}): repeat its command")
    return ShardPairs(*stock_pairs(sources, index, look, keep))


def open_pairs(
    sources: Sequence[str],
    online: str | None,
    seed: int,
    settings: Sequence[str],
    index: Folder,
    look: bool = True,
    keep: bool = True,
) -> PairSource:
    """The source that the settings ask for; `index`, `look` and `keep` as of open_shards."""
    for source in sources:
        url = absolute_url(source)
        if url.startswith("file://") and not any(mark in source for mark in "*?[{#") and not Folder(url).exists():
            raise InputError(f"{source.removeprefix('file://')} is not there")
    if online is not None:
        return OnlinePairs(sources, online, seed, settings)
    return open_shards(sources, index, look, keep)


def contents_of(source: PairSource) -> Mapping[str, str]:
    """A digest of what each tar of stored pairs holds, by its name or uri."""
    return source.origin.contents if isinstance(source, ShardPairs) else {}


def listed_of(source: PairSource) -> Listed:
    """What the listing of the data left out and had to warn of."""
    return source.origin.listed if isinstance(source, ShardPairs) else source.listed


def forgotten_of(source: PairSource) -> int:
    """How many images `forget` has taken out of what is read."""
    return source.origin.forgotten if isinstance(source, ShardPairs) else source.forgotten
