"""Pairs that are stored in tars: where each of them lies, as arrays, and how one is read.

A run keeps under 60 bytes a pair of it in every process that reads: a key, two places, a shard.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.config import digest
from lucidflux_data.errors import InputError, LucidFluxError, StorageError
from lucidflux_data.images import ImageError, upsample_lq
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.reading import HEADER, check_member
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.samples.listed import NOTHING, Listed
from lucidflux_model.samples.reading import GO_ON, DataChanged, Unreadable, read_range, tar_state

Pixels = tuple[np.ndarray, np.ndarray]  # HQ and the LQ at the same size, uint8 HxWx3 RGB
MEMBERS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),  # uri of the tar
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.string()),  # pairs of one group are on one side; null: the pair is one of its own
        pa.field("hq_offset", pa.int64()),  # null: the HQ is a pointer in the json
        pa.field("hq_size", pa.int64()),
        pa.field("hq_crc32", pa.uint32()),
        pa.field("lq_offset", pa.int64(), nullable=False),
        pa.field("lq_size", pa.int64(), nullable=False),
        pa.field("lq_crc32", pa.uint32()),  # null: an etag stands for the content of the tar
        pa.field("json_offset", pa.int64()),
        pa.field("json_size", pa.int64()),
    ]
)
PLACES = MEMBERS.names[3:]
PROBED = 16  # shards whose first pair is looked at before training starts
HAS_CHANGED = "has changed: it is damaged, or its shard was written again"
GAP_BYTES = 1 << 20  # between the two images of a pair, up to which they are one read


@dataclass(frozen=True)
class OwnFolder:
    """A folder of pairs that `synthesize` made. `manifest`: sha256 of its manifest; `contents`: sha256 of each tar."""

    folder: Folder
    run: pairs_run.PairsRun
    manifest: str
    contents: Mapping[str, str]
    forgotten: int  # images
    listed: Listed = field(default_factory=lambda: NOTHING)  # `synthesize` has named what it left out

    def check(self, shard: str) -> None:
        """DataChanged where the set is another one now, or is being written anew."""
        try:
            now = hashlib.sha256(self.folder.read(shards.MANIFEST)).hexdigest()
        except FileNotFoundError:
            now = ""
        if now != self.manifest:
            raise DataChanged(f"{self.folder} was changed while the run read it (`forget`, or a repair): {GO_ON}")


@dataclass(frozen=True)
class StockTars:
    """Tars of anyone. `states`: of reading.tar_state when they were indexed; `contents`: a digest of each."""

    states: Mapping[str, str]
    contents: Mapping[str, str]
    listed: Listed
    run: None = None
    forgotten: int = 0

    def check(self, shard: str) -> None:
        """DataChanged where a tar is not in the state that it was in."""
        if tar_state(shard)[0] != self.states[shard]:
            raise DataChanged(f"{shard} was changed while the run read it: {GO_ON}")


Origin = OwnFolder | StockTars


class ShardPairs:
    """Pairs in tars, in the order of shards and keys. Picklable; opens nothing until it is read from."""

    def __init__(self, table: pa.Table, origin: Origin) -> None:
        """`table`: MEMBERS. InputError where no pair can be used, or sizes are mixed."""
        encoded = table["shard"].combine_chunks().dictionary_encode()
        self.shards: list[str] = encoded.dictionary.to_pylist()
        self.shard_of = encoded.indices.to_numpy()
        self.origin = origin
        self._keys = table["key"].combine_chunks()
        groups = table["group"].combine_chunks()
        known = pc.fill_null(pc.not_equal(groups, self._images()), False)
        self._grouped = narrow(np.flatnonzero(known.to_numpy(zero_copy_only=False)))  # few have near duplicates
        self._group_names = groups.filter(known).dictionary_encode()
        pointed = table["hq_offset"].null_count > 0
        names = [name for name in PLACES if pointed or not name.startswith("json")]
        self._columns = {name: narrow(table[name].fill_null(0 if "crc32" in name else -1).to_numpy()) for name in names}
        self._unchecked = set(np.unique(self.shard_of[pc.is_null(table["lq_crc32"]).to_numpy()]).tolist())
        self._scale = Fraction(origin.run["config"]["degrade"]["scale"]) if origin.run else None
        self.size = self._probe()

    def __len__(self) -> int:
        return len(self._keys)

    def _names(self) -> list[str]:
        return list(self._keys.to_pylist())

    def keys_of(self, shard: int) -> tuple[slice, pa.Array]:
        """Which pairs a shard has, which stand together, and their keys."""
        first, last = np.searchsorted(self.shard_of, [shard, shard + 1]).tolist()
        return slice(first, last), self._keys[first:last]

    @property
    def groups(self) -> list[str]:
        """The group of each pair; a list that is made anew."""
        found: list[str] = self._images().to_pylist()
        for index, name in zip(self._grouped.tolist(), self._group_names.to_pylist(), strict=True):
            found[index] = name
        return found

    def _images(self) -> pa.Array:
        """What a pair is one of where no group is known: the image of a pair of ours, `{key}_{vv}` without its end."""
        return pc.replace_substring_regex(self._keys, r"(.)_\d+$", r"\1") if self.origin.run else self._keys

    def key(self, index: int, epoch: int) -> str:
        return str(self._keys[index].as_py())

    @property
    def decoder(self) -> int:
        """The version of the decoders that first gave the pixels of now: of pairs that `synthesize` stores the one of
        8-bit RGB, of tars of anyone and of pointers to clean images that of now."""
        run = self.origin.run
        return version.PLAIN_VERSION if run and run["config"]["hq"] != "ref" else version.DECODER_VERSION

    def digest(self) -> str:
        """Stands for which pairs these are."""
        keys = np.asarray([key.encode() for key in self._names()], dtype="S")
        sizes = [self._columns[name].astype(np.int64) for name in ("hq_size", "lq_size")]
        return digest([zlib.crc32(keys.tobytes()), *(zlib.crc32(column.tobytes()) for column in sizes)])

    def _probe(self) -> tuple[int, int]:
        """(height, width) of the HQ. InputError where the first pairs of some shards differ, or cannot be used."""
        first: dict[int, int] = {}
        for index, shard in enumerate(self.shard_of):
            first.setdefault(int(shard), index)
        sizes: dict[tuple[int, int], str] = {}
        why = ""
        for index in list(first.values())[:: max(1, len(first) // PROBED)]:
            try:
                hq, lq = self._pixels(index, 0)
                self._scale = self._scale or find_scale(hq, lq, self.key(index, 0))
                self._fit(hq, lq, index)
            except Unreadable as error:
                why = why or str(error)
                continue
            sizes.setdefault(hq.shape[:2], self.key(index, 0))
        if not sizes:
            raise InputError(f"no pair of {self.shards[0]} can be used ({why}): see `lucidflux-data verify --deep`")
        if len(sizes) > 1:
            raise InputError(mixed_sizes(sizes))
        return next(iter(sizes))

    def read(self, index: int, epoch: int) -> Pixels:
        """Raises Unreadable; StorageError or CredentialsError where the data are away, DataChanged where they are
        others now."""
        hq, lq = self._pixels(index, epoch)
        return hq, self._fit(hq, lq, index)

    def _pixels(self, index: int, epoch: int) -> Pixels:
        """HQ and LQ as they are stored."""
        row = {name: int(column[index]) for name, column in self._columns.items()}
        hq_data, lq_data = self._bytes(index, row)
        try:
            hq = self._pointed(index, row) if row["hq_offset"] < 0 else pixels_apart(hq_data)
            return hq, pixels_apart(lq_data)
        except StorageError:
            raise
        except (ImageError, InputError, ValueError, KeyError, TypeError) as error:  # the last three: a damaged json
            raise Unreadable(f"{self.key(index, epoch)}: {getattr(error, 'detail', error)}") from None

    def _fit(self, hq: np.ndarray, lq: np.ndarray, index: int) -> np.ndarray:
        """The LQ at the size of the HQ. Unreadable where it is not the HQ's by the scale of the pairs."""
        scale = self._scale or find_scale(hq, lq, self.key(index, 0))
        if any(small * scale != large for small, large in zip(lq.shape[:2], hq.shape[:2], strict=True)):
            sides = f"its LQ of {_sides(lq)} times {scale} is not its HQ of {_sides(hq)}"
            raise Unreadable(f"{self.key(index, 0)}: {sides} (wrong_scale)")
        return upsample_lq(lq, *hq.shape[:2])

    def _bytes(self, index: int, row: dict[str, int]) -> tuple[bytes, bytes]:
        names = ("lq",) if row["hq_offset"] < 0 else ("hq", "lq")
        shard = int(self.shard_of[index])
        try:
            found = self._ranges(self.shards[shard], names, row)
            for name in names:
                try:
                    found[name] = check_member(found[name], row[f"{name}_size"])
                except ImageError:
                    raise Unreadable(f"its {name} {HAS_CHANGED}") from None
                if shard not in self._unchecked and zlib.crc32(found[name]) != row[f"{name}_crc32"]:
                    raise Unreadable(f"its {name} {HAS_CHANGED}")
        except (Unreadable, LucidFluxError) as error:
            self._check(self.shards[shard])
            if isinstance(error, LucidFluxError) and not isinstance(error, InputError):
                raise
            raise Unreadable(f"{self.key(index, 0)}: {error}") from None
        return found.get("hq", b""), found["lq"]

    def _ranges(self, url: str, names: Sequence[str], row: dict[str, int]) -> dict[str, bytes]:
        """Members with the header before each."""
        begins = {name: row[f"{name}_offset"] for name in names}
        spans = {name: (begin - HEADER, begin + row[f"{name}_size"]) for name, begin in begins.items()}
        start, end = min(begin for begin, _ in spans.values()), max(stop for _, stop in spans.values())
        if end - start > sum(stop - begin for begin, stop in spans.values()) + GAP_BYTES:
            return {name: read_range(url, *span) for name, span in spans.items()}
        data = read_range(url, start, end)
        return {name: data[begin - start : stop - start] for name, (begin, stop) in spans.items()}

    def _check(self, shard: str) -> None:
        """DataChanged where what could not be read is other data; a store that is away cannot be asked."""
        try:
            self.origin.check(shard)
        except (StorageError, OSError):
            return

    def _pointed(self, index: int, row: dict[str, int]) -> np.ndarray:
        run = self.origin.run
        assert run is not None, "only our own folders hold pointers"
        start = row["json_offset"]
        record = parse_json(read_range(self.shards[self.shard_of[index]], start, start + row["json_size"]))
        config = PairsConfig.model_validate(run["config"])
        data = pair_samples.stored_hq({}, record, run["sources"])
        return pairs.hq_pixels(record, data, config.degrade.crop)


def narrow(values: np.ndarray) -> np.ndarray:
    """Integers in the smallest of uint32, int32 and int64 that holds them."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for kind in (np.uint32, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)


def find_scale(hq: np.ndarray, lq: np.ndarray, key: str) -> Fraction:
    """How many times larger the HQ is than the LQ. Unreadable where that differs between height and width."""
    tall, wide = (Fraction(large, small) for large, small in zip(hq.shape[:2], lq.shape[:2], strict=True))
    if tall != wide:
        raise Unreadable(f"{key}: its LQ of {_sides(lq)} is of another shape than its HQ of {_sides(hq)} (wrong_scale)")
    return tall


def mixed_sizes(sizes: dict[tuple[int, int], str]) -> str:
    examples = ", ".join(f"{width}x{height} ({key})" for (height, width), key in list(sizes.items())[:3])
    return f"the pairs have mixed sizes, {examples}: a run trains on one size"


def _sides(pixels: Any) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
