"""Which sample comes when, and the loader that brings it.

The stream of samples is endless: epoch after epoch, each a permutation that follows from (seed, epoch) alone. A step
takes the next `batch_size` samples of it, whatever the number of processes, so {seed, epoch, consumed} is all there is
to remember. Shards are permuted, and samples shuffled within windows of a few shards: reading stays local.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lucidflux_data.errors import ConfigError, InputError, Interrupted, LucidFluxError, VerificationError
from lucidflux_data.storage.config import SETTINGS
from lucidflux_data.storage.folder import configure
from lucidflux_model.network.encode import Tensors
from lucidflux_model.samples.reading import Unreadable
from lucidflux_model.samples.sources import PairSource
from lucidflux_model.samples.stored import mixed_sizes, narrow

REPLACEMENTS = 32  # samples that are tried in the place of one that cannot be read


def hash64(*parts: object) -> int:
    """63 bits that follow from the parts alone, on any machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def split(groups: Sequence[str], fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices. A group is on one side with all its pairs, and stays there as data grow."""
    limit = fraction * 2**63
    held = np.array([hash64("validation", group) < limit for group in groups], bool)
    return narrow(np.flatnonzero(~held)), narrow(np.flatnonzero(held))


@dataclass(frozen=True)
class Order:
    """`indices`: the samples to train on; `shard_of`: the shard of each of them."""

    indices: np.ndarray
    shard_of: np.ndarray
    seed: int
    window: int

    def __len__(self) -> int:
        return len(self.indices)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one Order a process
    def epoch(self, number: int) -> np.ndarray:
        """A permutation of `indices`."""
        generator = np.random.Generator(np.random.Philox(hash64(self.seed, "order", number)))
        shards = generator.permutation(np.unique(self.shard_of))
        by_shard = np.argsort(self.shard_of, kind="stable")
        bounds = np.searchsorted(self.shard_of[by_shard], np.stack([shards, shards + 1]))
        parts = []
        for first in range(0, len(shards), self.window):
            spans = bounds[:, first : first + self.window].T
            members = np.concatenate([by_shard[start:end] for start, end in spans])
            parts.append(generator.permutation(members))
        return np.asarray(self.indices[np.concatenate(parts)])

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, sample index) of a position in the stream."""
        epoch, place = divmod(position, len(self))
        return epoch, int(self.epoch(epoch)[place])

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class Sample(Tensors, total=False):
    """A sample of the stream, or `error` alone."""

    key: str
    position: int  # in the stream
    corrupt: int  # 1: another stands in the place of one that cannot be read
    why: str  # the reason, or ""
    error: str  # what ends the training
    code: int  # with `error`: the exit code of its kind


class Batch(Tensors, total=False):
    """Samples stacked, or `error` alone: lists have one entry a sample."""

    key: list[str]
    position: list[int]
    corrupt: list[int]
    why: list[str]
    error: str
    code: int


class PairDataset(Dataset):
    """`dataset[position]` -> Sample."""

    def __init__(
        self, source: PairSource, order: Order, extra: Callable[[int], dict[str, Tensor]] | None = None
    ) -> None:
        """`extra(index)` -> further tensors of a sample by name: see `lucidflux_model.samples.cached`."""
        self.source, self.order, self.extra = source, order, extra

    def __getitem__(self, position: int) -> Sample:
        # Errors travel as text: the loader would wrap an exception in its worker's traceback.
        try:
            return self._read(position)
        except LucidFluxError as error:
            return {"error": str(error), "code": error.exit_code}

    def _read(self, position: int) -> Sample:
        epoch, _ = self.order.at(position)
        start = epoch * len(self.order)
        why = ""
        for tried in range(min(REPLACEMENTS, len(self.order))):
            _, index = self.order.at(start + (position - start + tried) % len(self.order))
            try:
                hq, lq = self.source.read(index, epoch)
                more = self.extra(index) if self.extra else {}
            except Unreadable as error:
                why = why or str(error)
                continue
            if hq.shape[:2] != self.source.size:
                sizes = {self.source.size: "the first", hq.shape[:2]: self.source.key(index, epoch)}
                raise InputError(mixed_sizes(sizes))
            sample: Sample = {"hq": _planes(hq), "lq": _planes(lq)}
            sample.update(cast(Sample, more))
            key = self.source.key(index, epoch)
            sample.update({"key": key, "position": position, "corrupt": int(tried > 0), "why": why})
            return sample
        raise InputError(f"{REPLACEMENTS} pairs in a row cannot be read, the first: {why}")


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@dataclass(frozen=True)
class Share:
    """Which part of every global batch this process takes, and in how many pieces."""

    batch_size: int
    micro_batch: int
    rank: int = 0
    world: int = 1

    @property
    def pieces(self) -> int:
        return self.batch_size // (self.world * self.micro_batch)

    def positions(self, start: int) -> list[list[int]]:
        """The pieces of the step whose batch begins at `start` in the stream."""
        mine = self.batch_size // self.world
        first = start + self.rank * mine
        return [list(range(at, at + self.micro_batch)) for at in range(first, first + mine, self.micro_batch)]


@dataclass(frozen=True)
class Pieces:
    """A batch sampler: the pieces of all steps from stream position `start` on."""

    share: Share
    start: int
    steps: int

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            yield from self.share.positions(self.start + step * self.share.batch_size)

    def __len__(self) -> int:
        return self.steps * self.share.pieces


def load(dataset: PairDataset, pieces: Pieces, workers: int, pin: bool) -> Iterator[Batch]:
    """Batches in order: tensors stacked, the rest as lists. Raises InputError for what cannot be trained on, and what
    `read` of the source raises beside Unreadable, by its kind (ERRORS)."""
    options: dict[str, object] = {}
    if workers:  # spawned: neither CUDA nor the clients of object stores live through a fork
        start = functools.partial(_start_worker, dict(SETTINGS))
        options = {"multiprocessing_context": "spawn", "worker_init_fn": start, "prefetch_factor": 4}
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # it knows cores, not what they do
    loader = DataLoader(
        dataset, batch_sampler=pieces, num_workers=workers, collate_fn=collate, pin_memory=pin, **options
    )
    for batch in loader:
        if "error" in batch:
            raise make_error(batch["code"], batch["error"])
        yield batch


def collate(samples: list[Sample]) -> Batch:
    for sample in samples:
        if "error" in sample:
            return {"error": sample["error"], "code": sample["code"]}
    columns = {name: [dict(sample)[name] for sample in samples] for name in samples[0]}
    stacked = {name: torch.stack(found) if isinstance(found[0], Tensor) else found for name, found in columns.items()}
    return cast(Batch, stacked)


ERRORS = {kind.exit_code: kind for kind in (ConfigError, InputError, Interrupted, VerificationError)}


def make_error(code: int, text: str) -> LucidFluxError:
    """The error of an exit code, as it was in another process."""
    return ERRORS[code](text)


def _start_worker(settings: dict[str, object], _: int) -> None:
    """`settings`: how the process that trains speaks to stores."""
    import cv2

    configure(settings)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
