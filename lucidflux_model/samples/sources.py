"""Where pairs come from. Those to train on answer `groups`, `key`, `shard_of`, `size` and `read(index, epoch)`.

    ShardPairs     pair shards by their index, or stock WebDataset tars with members hq.* and lq.*; local or a url
    OnlinePairs    clean images, degraded as they are read: epoch e is variant e
    SuiteImages    a prepared benchmark suite: to validate on only

A sample is one ranged read. `Unreadable` is a sample's own trouble, which the loader counts and replaces.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.config import digest
from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.images import ImageError, upsample_lq
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import HEADER, check_member, read_file
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import table_bytes
from lucidflux_data.storage.names import check_file_name

Pixels = tuple[np.ndarray, np.ndarray]  # HQ and the LQ at the same size, uint8 HxWx3 RGB
MEMBERS = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),  # url of the tar
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.string()),  # near-duplicate group; null where none was sought
        pa.field("hq_offset", pa.int64()),  # null: the HQ is a pointer in the json
        pa.field("hq_size", pa.int64()),
        pa.field("hq_crc32", pa.uint32()),
        pa.field("lq_offset", pa.int64(), nullable=False),
        pa.field("lq_size", pa.int64(), nullable=False),
        pa.field("lq_crc32", pa.uint32()),
        pa.field("json_offset", pa.int64()),
        pa.field("json_size", pa.int64()),
    ]
)
PROBED = 16  # shards whose first pair is looked at before training starts


class Unreadable(Exception):
    """One pair cannot be read; the message says which and why."""


class ShardPairs:
    """Pairs in tars, in the order of shards and keys. Picklable; opens nothing until it is read from."""

    def __init__(self, table: pa.Table, run: pairs_run.PairsRun | None = None) -> None:
        """`table`: MEMBERS; `run`: run.json of the folder of pairs, which an HQ by pointer is cut with."""
        encoded = table["shard"].combine_chunks().dictionary_encode()
        self.shards = encoded.dictionary.to_pylist()
        self.shard_of = encoded.indices.to_numpy()
        self.keys = np.asarray(table["key"].to_pylist(), dtype="S")
        groups = pc.coalesce(table["group"], pa.nulls(table.num_rows, pa.string()))
        self.groups = [group or image_of(key) for group, key in zip(groups.to_pylist(), self._names(), strict=True)]
        self._columns = {
            name: table[name].fill_null(-1 if "crc32" not in name else 0).to_numpy() for name in table.column_names[3:]
        }
        self._checked = table["lq_crc32"].null_count == 0
        self._run = run
        self.size = self._probe()

    def __len__(self) -> int:
        return len(self.keys)

    def _names(self) -> list[str]:
        return [key.decode() for key in self.keys]

    def key(self, index: int, epoch: int) -> str:
        return str(self.keys[index].decode())

    @property
    def decoder(self) -> int:
        """The version of the decoders that first gave the pixels of now: of pairs that `synthesize` stores the one of
        8-bit RGB, of tars of anyone and of pointers to clean images that of now."""
        stored = self._run is not None and self._run["config"]["hq"] != "ref"
        return version.PLAIN_VERSION if stored else version.DECODER_VERSION

    def digest(self) -> str:
        """Stands for which pairs these are."""
        sizes = [self._columns[name] for name in ("hq_size", "lq_size")]
        return digest([zlib.crc32(self.keys.tobytes()), *(zlib.crc32(column.tobytes()) for column in sizes)])

    def _probe(self) -> tuple[int, int]:
        """(height, width) of the HQ. InputError where the first pairs of some shards differ, or cannot be used."""
        first: dict[int, int] = {}
        for index, shard in enumerate(self.shard_of):
            first.setdefault(int(shard), index)
        sizes: dict[tuple[int, int], str] = {}
        why = ""
        for index in list(first.values())[:: max(1, len(first) // PROBED)]:
            try:
                hq, _ = self.read(index, 0)
            except Unreadable as error:
                why = why or str(error)
                continue
            sizes.setdefault(hq.shape[:2], self.key(index, 0))
        if not sizes:
            raise InputError(f"no pair of {self.shards[0]} can be read ({why}): see `lucidflux-data verify --deep`")
        if len(sizes) > 1:
            raise InputError(mixed_sizes(sizes))
        return next(iter(sizes))

    def read(self, index: int, epoch: int) -> Pixels:
        """Raises Unreadable."""
        row = {name: int(column[index]) for name, column in self._columns.items()}
        hq_data, lq_data = self._bytes(index, row)
        try:
            if row["hq_offset"] < 0:
                hq = self._pointed(index, row)
            else:
                hq = pixels_apart(hq_data)
            lq = pixels_apart(lq_data)
        except (ImageError, InputError, StorageError, ValueError) as error:  # ValueError: a damaged json
            raise Unreadable(f"{self.key(index, epoch)}: {getattr(error, 'detail', error)}") from None
        return hq, upsample_lq(lq, *hq.shape[:2])

    def _bytes(self, index: int, row: dict[str, int]) -> tuple[bytes, bytes]:
        names = ("lq",) if row["hq_offset"] < 0 else ("hq", "lq")
        start = min(row[f"{name}_offset"] for name in names) - HEADER
        end = max(row[f"{name}_offset"] + row[f"{name}_size"] for name in names)
        try:
            data = read_range(self.shards[self.shard_of[index]], start, end)
        except OSError as error:
            raise Unreadable(f"{self.key(index, 0)}: {error.strerror or error}") from None
        except InputError as error:
            raise Unreadable(f"{self.key(index, 0)}: {error}") from None
        found = {}
        for name in names:
            begin, size = row[f"{name}_offset"] - start, row[f"{name}_size"]
            try:
                found[name] = check_member(data[begin - HEADER : begin + size], size)
            except ImageError:
                found[name] = b""
            if not found[name] or (self._checked and zlib.crc32(found[name]) != row[f"{name}_crc32"]):
                why = "it is damaged, or its shard was written again"
                raise Unreadable(f"{self.key(index, 0)}: its {name} has changed: {why}")
        return found.get("hq", b""), found["lq"]

    def _pointed(self, index: int, row: dict[str, int]) -> np.ndarray:
        assert self._run is not None, "only our own folders hold pointers"
        start = row["json_offset"]
        record = json.loads(read_range(self.shards[self.shard_of[index]], start, start + row["json_size"]))
        config = PairsConfig.model_validate(self._run["config"])
        data = pair_samples.stored_hq({}, record, self._run["sources"])
        return pairs.hq_pixels(record, data, config.degrade.crop)


class OnlinePairs:
    """`RealESRGANPairs` as a source of pairs: variant = epoch, and the same pixels as `synthesize` stores."""

    def __init__(self, sources: Sequence[str], preset: str, seed: int, settings: Sequence[str]) -> None:
        from lucidflux_data import RealESRGANPairs

        self._pairs = RealESRGANPairs(list(sources) if len(sources) > 1 else sources[0], preset, seed, settings)
        rows = self._pairs.rows
        self._keys = [row["key"] for row in rows]
        self.groups = [row["group"] or row["key"] for row in rows]
        # Images in tars are read tar by tar, files in runs of a thousand.
        tars = [row["uri"].partition("#")[0] if row["offset"] >= 0 else index // 1000 for index, row in enumerate(rows)]
        numbers = {tar: number for number, tar in enumerate(dict.fromkeys(tars))}
        self.shard_of = np.array([numbers[tar] for tar in tars], np.int32)
        self.size = (self._pairs.config.size,) * 2

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int, epoch: int) -> str:
        return f"{self._keys[index]}_{epoch:02d}"

    def digest(self) -> str:
        return digest([self._keys, self._pairs.config.model_dump()])

    def read(self, index: int, epoch: int) -> Pixels:
        try:
            hq, lq = self._pairs.pair(index, epoch)
        except InputError as error:
            raise Unreadable(str(error)) from None
        return hq, upsample_lq(lq, *hq.shape[:2])


class SuiteImages:
    """A suite that `lucidflux bench prepare` has laid out, to validate on: suite.json, lq/, gt/ where there are any.

    Ids are the keys; sizes may differ, and `read` gives None for the HQ of a suite without references.
    """

    def __init__(self, folder: str) -> None:
        """InputError where the folder holds no prepared suite."""
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / "suite.json").read_text())
            self.name, self._scale, images = str(about["name"]), int(about["scale"]), about["images"]
        except OSError:
            raise InputError(f"{folder} is no prepared suite (no suite.json): see `lucidflux bench prepare`") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{folder}/suite.json is damaged, or of an older version: prepare it again") from None
        self.keys = sorted(images)
        self._files = {id_: {role: image["file"] for role, image in images[id_].items()} for id_ in self.keys}
        self._sha256 = {id_: {role: image.get("sha256") for role, image in images[id_].items()} for id_ in self.keys}
        for name in (file for roles in self._files.values() for item in roles.items() for file in item):
            check_file_name(name, self.folder)
        self.references = all("gt" in roles for roles in self._files.values())

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int, epoch: int) -> str:
        return str(self.keys[index])

    def read(self, index: int, epoch: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Raises Unreadable."""
        found: dict[str, np.ndarray] = {}
        for role, file in self._files[self.keys[index]].items():
            known = self._sha256[self.keys[index]][role]
            try:
                data = read_file(self.folder / role / file)
                if known is not None and hashlib.sha256(data).hexdigest() != known:
                    raise ImageError("changed", "another image than that of suite.json")
                found[role] = pixels_apart(data)
            except ImageError as error:
                raise Unreadable(f"{self.folder / role / file}: {error.detail}") from None
        hq, (height, width) = found.get("gt"), found["lq"].shape[:2]
        size = hq.shape[:2] if hq is not None else (height * self._scale, width * self._scale)
        return hq, upsample_lq(found["lq"], *size)


PairSource = ShardPairs | OnlinePairs


def image_of(key: str) -> str:
    """The image that a pair is a variant of: `{key}_{vv}` without its end."""
    head, _, variant = key.rpartition("_")
    return head if head and variant.isdigit() else key


def mixed_sizes(sizes: dict[tuple[int, int], str]) -> str:
    told = ", ".join(f"{width}x{height} ({key})" for (height, width), key in list(sizes.items())[:3])
    return f"the pairs have mixed sizes, {told}: a run trains on one size"


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a file or object."""
    folder, _, name = url.rpartition("/")
    place = Folder(folder)
    if place.is_local:
        with place.open(name) as file:
            file.seek(start)
            return file.read(end - start)
    return bytes(place.fs.cat_file(place.path(name), start=start, end=end))


def open_shards(sources: Sequence[str], index: Folder) -> ShardPairs:
    """`sources`: one folder of pairs, or tars and globs of tars, whose index is made once and kept in `index`.

    Raises InputError where there are no pairs, or a pair lacks a member.
    """
    folder = Folder(sources[0])
    if len(sources) == 1 and folder.exists(shards.MANIFEST):
        if not pairs_run.is_pairs(folder):
            raise InputError(
                f"{folder} holds clean images, not pairs: synthesize them, or set data.online=realesrgan-x4"
            )
        table = _own_index(folder)
        return ShardPairs(table, pairs_run.read(folder))
    if len(sources) == 1 and folder.exists("run.json"):
        raise InputError(f"{folder} was not made to the end (no {shards.MANIFEST}): repeat its command")
    urls = [absolute_url(source) for source in sources]
    name = f"index/{digest(urls)[:20]}.parquet"
    if not index.exists(name):
        index.publish(name, table_bytes(_stock_index(urls)))
    return ShardPairs(index.read_table(name))


def open_pairs(
    sources: Sequence[str], online: str | None, seed: int, settings: Sequence[str], index: Folder
) -> PairSource:
    """The source that the settings ask for."""
    for source in sources:
        url = absolute_url(source)
        if url.startswith("file://") and not any(mark in source for mark in "*?[{#") and not Folder(url).exists():
            raise InputError(f"{source} is not there")
    if online is not None:
        return OnlinePairs(sources, online, seed, settings)
    return open_shards(sources, index)


def _own_index(folder: Folder) -> pa.Table:
    groups: dict[str, str] = {}
    for name in folder.names(pairs_run.PLACE):
        rows = folder.read_table(f"{pairs_run.PLACE}/{name}", ["key", "group"]).to_pylist()
        groups.update({row["key"]: row["group"] for row in rows if row["group"] and row["key"]})
    names = [entry["name"].removesuffix(".tar") for entry in shards.read_manifest(folder)["shards"]]
    if not names:
        raise InputError(f"{folder} has no shards")
    tables = folder.read_tables(f"shards/{shards.index_name(name)}" for name in names)
    columns = [_joined(f"{folder.url}/shards/{name}.tar", table) for name, table in zip(names, tables, strict=True)]
    table = pa.concat_tables(columns)
    found = pa.array([groups.get(image_of(key)) for key in table["key"].to_pylist()], pa.string())
    return table.append_column("group", found).select(MEMBERS.names).cast(MEMBERS)


def _joined(url: str, index: pa.Table) -> pa.Table:
    """One row a sample of an index with one row a member."""
    parts = {}
    for kind in ("hq", "lq", "json"):
        rows = index.filter(pc.match_substring_regex(index["member"], rf"^[^.]*\.{kind}(\.|$)"))
        parts[kind] = rows.rename_columns(["key", "member", *(f"{kind}_{n}" for n in ("offset", "size", "crc32"))])
    keys = parts["json"].select(["key"])
    table = keys.join(parts["hq"].drop(["member"]), "key").join(parts["lq"].drop(["member"]), "key")
    table = table.join(parts["json"].drop(["member", "json_crc32"]), "key").sort_by("key")
    lacking = table.filter(pc.is_null(table["lq_offset"]))["key"].to_pylist()
    if lacking:
        raise InputError(f"{lacking[0]} of {url} has no LQ: see `lucidflux-data verify`")
    return table.append_column("shard", pa.array([url] * table.num_rows, pa.string()))


def _stock_index(urls: list[str]) -> pa.Table:
    """MEMBERS of tars of anyone: a sample is what shares a name up to its first dot."""
    samples: dict[tuple[str, str], dict[str, int | str | None]] = {}
    for row in list_sources(urls).table.to_pylist():
        tar, inside, member = row["uri"].partition("#")
        if not inside or row["offset"] < 0:
            raise InputError(f"{row['uri']} is not in a tar: --data takes pairs; data.online=realesrgan-x4 makes them")
        folder, _, base = member.rpartition("/")
        stem, _, kind = base.partition(".")
        sample = samples.setdefault((tar, f"{folder}/{stem}" if folder else stem), {"group": None})
        name = kind.partition(".")[0].lower()
        if name in ("hq", "lq"):
            sample |= {f"{name}_offset": row["offset"], f"{name}_size": row["size"]}
        side = json.loads(row["side"]) if row["side"] else {}
        sample["group"] = sample["group"] or (side.get("group") if isinstance(side, dict) else None)
    if not any("hq_offset" in sample for sample in samples.values()):
        raise InputError(f"{urls[0]} holds no pairs: a sample needs the members hq.* and lq.*")
    rows = []
    for (tar, key), sample in samples.items():
        for name in ("hq", "lq"):
            if f"{name}_offset" not in sample:
                raise InputError(f"{key} of {tar} has no {name.upper()}")
        rows.append({"shard": tar, "key": key, **sample})
    return pa.Table.from_pylist(rows, MEMBERS).sort_by([("shard", "ascending"), ("key", "ascending")])
