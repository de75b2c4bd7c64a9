"""WebDataset shards that are planned first, written once and can be proved.

    plan: shard -> keys       one task writes one shard       manifest.json, published last
    shards/hq-000000.tar              the samples, in key order, members in name order
    shards/hq-000000.index.parquet    records.INDEX; in its metadata the sha256 of the tar and of each image

A tar is byte for byte a function of its samples: USTAR, mtime 0, uid and gid 0, mode 0644, no padding beyond the two
closing blocks. Reading by the index needs one ranged read a member.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NotRequired, TypedDict, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lucidflux_data.errors import VerificationError
from lucidflux_data.shards.form import brace_string, is_manifest, is_ours
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, fits_type, parse_json, parse_table, table_bytes
from lucidflux_data.storage.journal import Rewriting, is_left
from lucidflux_data.storage.run_folder import SEAL, fits_seal, is_sealed, seal

SCHEMA_VERSION = 1
INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the member's first data byte in the tar
        pa.field("size", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)


BLOCK = tarfile.BLOCKSIZE  # 512
END_OF_TAR = bytes(2 * BLOCK)
MANIFEST = "manifest.json"
FORGETTING: Final = "forgetting"  # in a manifest while `forget` writes shards again


class IndexRow(TypedDict):
    """A row of INDEX: one member of a tar. `key`: of its sample; `member`: its name in the tar; `offset`, `size`: of
    its data in bytes; `crc32`: of the data."""

    key: str
    member: str
    offset: int
    size: int
    crc32: int


class ShardEntry(TypedDict):
    """A shard in the manifest. `name`: of its tar; `samples`: how many; `bytes`: of the tar; `sha256`, `index_sha256`:
    of the tar and of its index."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


class StripCard(TypedDict):
    """What a manifest says of stripping. `version`: of the code that did it; `tags`: that were asked for; `images`:
    with other bytes now; `not_looked_into`: counts by format, and `unsupported`: what became of those (keep, drop)."""

    version: NotRequired[int]  # not there: 1
    tags: list[str]
    images: int
    not_looked_into: dict[str, int]
    unsupported: NotRequired[str]  # not there: keep
    sha256: NotRequired[str]  # of stripped.parquet; since 0.5


class BaseOfSet(TypedDict):
    """The set that was added to: of its manifest `version`, `content_sha256` and `samples`; `shards`: how many."""

    version: int
    content_sha256: str
    samples: int
    shards: int


class MadeBy(TypedDict):
    """What whoever adds to the set compares. `metric`: of the cut; `hash_version`: of near-duplicates."""

    metric: str
    decoder_version: int
    hash_version: int


class Manifest(TypedDict):
    """manifest.json. `digests`: of the job, its plan and its ledger; `samples`, `bytes`: of all shards; `urls`: the
    shards as WebDataset expands them; `content_sha256`: of every key and sample; `shards`: in the order of their
    numbers. A filtered set may have `firewall` (measures/firewall.py) and `stripped`; `forgetting` stands there
    while `forget` writes shards again. One that was added to has `version` (from 2 on), `base` and `made_with`."""

    schema_version: int
    digests: dict[str, str]
    samples: int
    bytes: int
    urls: str
    content_sha256: str
    shards: list[ShardEntry]
    firewall: NotRequired[Mapping[str, Any]]
    stripped: NotRequired[StripCard]
    forgetting: NotRequired[bool]
    forgotten_sha256: NotRequired[str]  # of pairs: of the list of what was taken out
    version: NotRequired[int]
    base: NotRequired[BaseOfSet]
    made_with: NotRequired[MadeBy]


Row = TypeVar("Row")  # of the ledger, or of the inputs of pairs; has at least `key`


@dataclass(frozen=True)
class Shard(Generic[Row]):
    """`number` and the rows of its samples, sorted by key."""

    prefix: str  # hq | pairs
    number: int
    rows: list[Row]

    @property
    def name(self) -> str:
        return f"{self.prefix}-{self.number:06d}"


@dataclass
class TarWriter:
    """Makes the chunks of a tar and, on the way, its index, size and hash. One use."""

    offset: int = 0
    index: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    sha256s: list[str] = field(default_factory=list)
    _hash: Any = field(default_factory=hashlib.sha256)

    def chunks(self, samples: Iterable[tuple[str, dict[str, bytes]]]) -> Iterator[bytes]:
        """`samples`: (key, {extension: bytes}), in key order. One sample is held at a time."""
        for key, members in samples:
            for extension in sorted(members):
                yield from self._member(key, f"{key}.{extension}", members[extension])
        yield self._counted(END_OF_TAR)

    def _member(self, key: str, name: str, data: bytes) -> Iterator[bytes]:
        yield self._counted(tar_header(name, len(data)))
        self.index.append((key, name, self.offset, len(data), zlib.crc32(data)))
        yield self._counted(data)
        yield self._counted(bytes(-len(data) % BLOCK))

    def _counted(self, chunk: bytes) -> bytes:
        self.offset += len(chunk)
        self._hash.update(chunk)
        return chunk

    def index_bytes(self, plan_digest: str, more: Mapping[str, str] | None = None) -> bytes:
        """The index as parquet, once every chunk has been taken. `more`: further facts for its metadata."""
        columns: Sequence[Sequence[Any]] = list(zip(*self.index, strict=True)) or [()] * len(INDEX)
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, INDEX, strict=True)]
        metadata = {
            "plan": plan_digest,
            "tar_sha256": self._hash.hexdigest(),
            "tar_bytes": str(self.offset),
            "sha256s": "\n".join(self.sha256s),
            **(more or {}),
        }
        table = pa.Table.from_arrays(arrays, schema=INDEX.with_metadata(metadata))
        return table_bytes(table)


def tar_header(name: str, size: int) -> bytes:
    """One USTAR header block. ValueError for a name over 100 bytes: keys never come near."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def tar_members(tar: bytes) -> dict[str, tuple[int, int]]:
    """(offset of the data, size) in bytes of every member, by its name, from the headers. tarfile.TarError."""
    with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as file:
        return {member.name: (member.offset_data, member.size) for member in file}


def sample_sha256(members: Mapping[str, bytes]) -> str:
    """What an index notes of a sample: sha256 (hex) of its members but the json, in the order of their extensions.

    For the one image of a filtered sample that is the image's own sha256. `members`: bytes by extension.
    """
    return hashlib.sha256(b"".join(members[name] for name in sorted(members) if name != "json")).hexdigest()


def tar_size(sizes: Iterable[int]) -> int:
    """Bytes that members of these sizes take in a tar: header, data, padding."""
    return sum(BLOCK + size + -size % BLOCK for size in sizes)


def assign_shards(
    rows: Sequence[Row],
    sizes: Sequence[Sequence[int]],
    prefix: str,
    max_samples: int,
    max_bytes: int,
    first: int = 0,
) -> list[Shard[Row]]:
    """Cuts rows (sorted by key) into shards of at most `max_samples` samples and `max_bytes` bytes.

    `sizes[i]`: member sizes of row i in bytes. A single sample over `max_bytes` gets a shard of its own. `first`: the
    number of the first shard.
    """
    shards: list[Shard[Row]] = []
    current: list[Row] = []
    filled = len(END_OF_TAR)
    for row, members in zip(rows, sizes, strict=True):
        needed = tar_size(members)
        if current and (len(current) == max_samples or filled + needed > max_bytes):
            shards.append(Shard(prefix, first + len(shards), current))
            current, filled = [], len(END_OF_TAR)
        current.append(row)
        filled += needed
    if current:
        shards.append(Shard(prefix, first + len(shards), current))
    return shards


def index_name(shard: str) -> str:
    return f"{shard}.index.parquet"


def is_complete(folder: Folder, place: str, shard: str, names: set[str], plan_digest: str) -> bool:
    """Whether `place` holds the tar and the index of this very plan. `names`: the file names in `place`."""
    if f"{shard}.tar" not in names or index_name(shard) not in names:
        return False
    metadata = read_index_metadata(folder, f"{place}/{index_name(shard)}")
    return metadata.get("plan") == plan_digest


def read_index_metadata(folder: Folder, name: str) -> dict[str, str]:
    """The index's own facts about its tar; {} where the file is damaged or missing."""
    try:
        return parse_index_metadata(folder.read(name))
    except OSError:
        return {}


def parse_index_metadata(index: bytes) -> dict[str, str]:
    """The same of the bytes of an index."""
    try:
        metadata = pq.read_schema(pa.BufferReader(index)).metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")}
    except (pa.ArrowException, OSError, UnicodeDecodeError):  # the last: names and metadata, of which pages have no sum
        return {}


def read_member(folder: Folder, shard: str, offset: int, size: int) -> bytes:
    """The bytes of one member by a ranged read."""
    return folder.read_range(f"{shard}.tar", offset, offset + size)


def make_manifest(
    folder: Folder, place: str, shards: Sequence[str], digests: dict[str, str], staged: Mapping[str, str] | None = None
) -> bytes:
    """The manifest of shards, from their indices alone. They lie in `place`, those of `staged` in the place it says."""
    entries: list[ShardEntry] = []
    lines = []
    for shard in shards:
        name = f"{(staged or {}).get(shard, place)}/{index_name(shard)}"
        index = folder.read(name)
        metadata = parse_index_metadata(index)
        keys = sorted(set(parse_table(index, folder.path(name), ["key"])["key"].to_pylist()))
        lines += [f"{key} {sha256}\n" for key, sha256 in zip(keys, metadata["sha256s"].split(), strict=True)]
        entries.append(
            {
                "name": f"{shard}.tar",
                "samples": len(keys),
                "bytes": int(metadata["tar_bytes"]),
                "sha256": metadata["tar_sha256"],
                "index_sha256": hashlib.sha256(index).hexdigest(),
            }
        )
    return seal(
        {
            "schema_version": SCHEMA_VERSION,
            "digests": digests,
            "samples": sum(entry["samples"] for entry in entries),
            "bytes": sum(entry["bytes"] for entry in entries),
            "urls": brace_string(shards),
            "content_sha256": hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(),
            "shards": entries,
        }
    )


def seal_manifest(folder: Folder, content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest; without a seal in a folder whose run.json has none, and where an earlier version wrote
    the same: a set that did not change keeps its bytes."""
    plain = canonical_json({name: value for name, value in content.items() if name != SEAL})
    if not is_sealed(folder) or (folder.exists(MANIFEST) and folder.read(MANIFEST) == plain):
        return plain
    return seal(content)


def read_manifest(folder: Folder, halfway: bool = False) -> Manifest:
    """The manifest. VerificationError where there is none, one that cannot be read, or, unless `halfway`, one that tars
    and indices need not agree with: a `forget` was not finished, or files are changing places."""
    if not halfway and is_left(folder):
        raise VerificationError(
            f"{folder} was left while shards took their places: `lucidflux-data verify` finishes it"
        )
    try:
        manifest: Manifest = parse_json(folder.read(MANIFEST))
    except FileNotFoundError:
        raise VerificationError(f"{folder} has no {MANIFEST}: it was not packed to the end") from None
    except ValueError:
        raise VerificationError(f"{folder}/{MANIFEST} is damaged") from None
    if not is_manifest(manifest):
        raise VerificationError(f"{folder}/{MANIFEST} is damaged: it does not list shards")
    if not fits_seal(cast("dict[str, Any]", manifest)):
        raise VerificationError(
            f"{folder}/{MANIFEST} was changed after it was written: `verify --repair` makes it again"
        )
    version = manifest.get("schema_version", 0)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise VerificationError(f"{folder}/{MANIFEST} was written by a newer version")
    if not isinstance(version, int) or not fits_type(manifest, Manifest) or not is_ours(manifest):
        raise VerificationError(f"{folder}/{MANIFEST} is damaged: it has values that no version writes")
    if manifest.get(FORGETTING) and not halfway:
        raise VerificationError(f"`lucidflux-data forget` is not through with {folder}: repeat it")
    return manifest


def known_hashes(folder: Folder) -> dict[str, str]:
    """sha256 (hex) of tars and indices by their names in the folder, as the manifest has them; {} without one."""
    try:
        manifest = read_manifest(folder, halfway=True)
    except VerificationError:
        return {}
    known = {f"shards/{entry['name']}": entry["sha256"] for entry in manifest["shards"]}
    indices = {index_name(entry["name"].removesuffix(".tar")): entry["index_sha256"] for entry in manifest["shards"]}
    return known | {f"shards/{name}": sha256 for name, sha256 in indices.items()}


def move_shard(change: Rewriting, stage: str, shard: str) -> None:
    """A shard of the stage takes the place of the one of its name."""
    index = f"{stage}/{index_name(shard)}"
    tar_sha256 = read_index_metadata(change.folder, index)["tar_sha256"]
    change.move(f"{stage}/{shard}.tar", f"shards/{shard}.tar", tar_sha256)
    sha256 = hashlib.sha256(change.folder.read(index)).hexdigest()
    change.move(index, f"shards/{index_name(shard)}", sha256)
