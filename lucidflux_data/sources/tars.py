"""The image members of a tar with their byte ranges, and the json beside each; past damage, the next whole header."""

from __future__ import annotations

import errno
import os
import tarfile
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.sources.counts import Counts
from lucidflux_data.sources.sides import MAX_SIDE_BYTES, side_text
from lucidflux_data.sources.uris import escape_name

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 24  # of a pax header or a long name: a damaged one may claim any size
SEARCH_BYTES = 1 << 22  # read at a time in the search for the next header
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# gzip, bzip2, xz, zstd, lz4, compress, lzip; zip, 7z and RAR, which people call .tar too
PACKERS = (
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x1f\x9d", b"LZIP"),
    *(b"PK\3\4", b"7z\xbc\xaf", b"Rar!"),
)
PACKED = "is a packed tar and is not read: unpack it to a .tar"
PACKED_TARS = (
    *(".tgz", ".taz", ".tbz", ".tbz2", ".tb2", ".txz", ".tlz", ".tzst"),
    *(f".tar.{packer}" for packer in ("gz", "bz2", "xz", "zst", "lz4", "z", "lz", "lzma", "br")),
)
ARCHIVES = (".zip", ".7z", ".rar")


@dataclass(frozen=True)
class Member:
    """An image in a tar. `name` as in the uri; `offset` and `size` in bytes; `side`: the json that stands beside it."""

    name: str
    offset: int
    size: int
    side: str | None


@dataclass
class _Sample:
    """The members of one key, up to the next that repeats a name: what stands beside each other."""

    names: set[str] = field(default_factory=set)
    images: int = 0
    side: str = ""


class _Header(tarfile.TarInfo):
    """As the standard library reads headers, but what is no header is noted, and the search goes on behind it."""

    @classmethod
    def fromtarfile(cls, tarfile_: Any) -> Any:
        file, start = tarfile_.fileobj, tarfile_.fileobj.tell()
        try:
            member = super().fromtarfile(tarfile_)
            if tarfile_.offset <= start:  # a negative size would read the same headers for ever
                raise tarfile.HeaderError("a size that leads backwards")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tarfile_.ended = True
            tarfile_.offset = _skip_zeros(file, start + BLOCK) - BLOCK  # block by block it would take hours
            file.seek(tarfile_.offset + BLOCK)
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.HeaderError, ValueError, OverflowError, MemoryError):
            tarfile_.damaged = True
            tarfile_.offset = _find_header(file, start + BLOCK) - BLOCK
            file.seek(tarfile_.offset + BLOCK)
            raise tarfile.InvalidHeaderError("no header") from None  # type: ignore[attr-defined]
        tarfile_.ended = False  # the end stands behind the last member
        if (
            tarfile_.offset > tarfile_.total
        ):  # cut inside this member, or a size that lies: what stands in it is looked at
            tarfile_.damaged = True
            tarfile_.offset = _find_header(file, start + BLOCK)
            member.size = max(0, tarfile_.total - member.offset_data)  # what is there: so reading knows it again
        return member

    def _proc_member(self, tarfile_: Any) -> Any:
        if self.type in EXTENDED and not 0 <= self.size <= MAX_HEADER_BYTES:
            raise tarfile.HeaderError("a header that is too long")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


class _Tar(tarfile.TarFile):
    tarinfo = _Header
    damaged = False
    ended = False
    total = 0  # bytes of the file


def _skip_zeros(file: IO[bytes], at: int) -> int:
    """Offset of the next block from `at` on that is not all zeros; of the end of the file where there is none."""
    while True:
        at = _skip_hole(file, at)
        file.seek(at)
        data = file.read(SEARCH_BYTES)
        filled = np.flatnonzero(np.frombuffer(data, np.uint8))
        if len(filled):
            return at + int(filled[0]) // BLOCK * BLOCK
        at += len(data)
        if len(data) < SEARCH_BYTES:
            return at


def _skip_hole(file: IO[bytes], at: int) -> int:
    """The first block from `at` on that a sparse file really has; `at` where the file system does not tell."""
    try:
        descriptor = file.fileno()
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            found = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a hole up to the end
                raise
            found = os.fstat(descriptor).st_size
        os.lseek(descriptor, place, os.SEEK_SET)
    except (OSError, AttributeError):  # no file of this machine, or a system that knows no holes
        return at
    return max(at, found // BLOCK * BLOCK)


def _find_header(file: IO[bytes], at: int) -> int:
    """Offset of the next block from `at` on whose checksum is right; of the end of the file where there is none."""
    while True:
        at = _skip_hole(file, at)
        file.seek(at)
        data = file.read(SEARCH_BYTES)
        if len(data) < BLOCK:
            return at + len(data)
        blocks = np.frombuffer(data, np.uint8, len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
        digits = blocks[:, 148:154]
        octal = ((digits >= 48) & (digits <= 55)) | (digits == 32) | (digits == 0)
        for number in np.flatnonzero(octal.all(axis=1) & blocks[:, 0].astype(bool)):
            try:
                tarfile.TarInfo.frombuf(blocks[number].tobytes(), "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError):
                continue
            return at + int(number) * BLOCK
        at += len(data)
        if len(data) < SEARCH_BYTES:
            return at


def list_members(file: IO[bytes], uri: str, counts: Counts) -> list[Member]:
    """Every image of the tar, of two with one name the last. What is left out, and damage, goes to `counts`."""
    images: dict[str, tuple[int, int, _Sample]] = {}
    samples: dict[str, _Sample] = {}
    whole = False
    start = file.read(6)
    reader = type("_TarOfThis", (_Tar,), {"total": file.seek(0, os.SEEK_END)})
    file.seek(0)
    if start.startswith(PACKERS):
        counts.ignored["packed_tars"] += 1
        counts.warnings.append(f"{uri} {PACKED}")
        return []
    try:
        with reader(fileobj=file, mode="r", ignore_zeros=True, encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                _take_member(tar, member, images, samples, counts)
            whole = tar.ended and not tar.damaged
    except (tarfile.TarError, ValueError, OverflowError):
        whole = False  # what stands before the break is there
    if not whole:
        counts.damaged_tars.append(uri)
        counts.ignored["damaged_tails"] += 1
    last = {key: sample.side for key, sample in samples.items() if not sample.images}
    found = []
    for name, (offset, size, sample) in images.items():
        side = last.get(sample_key(name)) or sample.side
        found.append(Member(name, offset, size, side or None))
    return found


def _take_member(
    tar: _Tar,
    member: tarfile.TarInfo,
    images: dict[str, tuple[int, int, _Sample]],
    samples: dict[str, _Sample],
    counts: Counts,
) -> None:
    tar.members = []  # type: ignore[attr-defined]  # millions of them are not kept
    if not member.isfile() or member.issparse():
        kind = "links" if member.islnk() or member.issym() else "not_regular"
        counts.ignored["other_files" if member.isfile() else kind] += not member.isdir()
        return
    name = escape_name(member.name)
    is_side = name.lower().endswith(".json") and member.size <= MAX_SIDE_BYTES
    if not is_side and not is_image_name(name):
        counts.ignored["other_files"] += 1
        return
    sample = samples.get(sample_key(name))
    if sample is None or name in sample.names:
        sample = samples[sample_key(name)] = _Sample()
    sample.names.add(name)
    if is_side:
        content = tar.extractfile(member)
        sample.side = (side_text(content.read()) if content is not None else None) or ""
        return
    sample.images += 1
    counts.ignored["duplicate_members"] += name in images
    images[name] = (member.offset_data, member.size, sample)


def describe_packed(name: str) -> str:
    """What to do with a file that is packed by its name; "" for all others."""
    if name.lower().endswith(ARCHIVES):
        return "is a packed archive and is not read: unpack it"
    return PACKED if name.lower().endswith(PACKED_TARS) else ""


def is_image_name(name: str) -> bool:
    """Whether a name has the extension of an image; `._x.jpg` is what macOS writes beside x.jpg, and is none."""
    base = name.rpartition("/")[2]
    return os.path.splitext(base)[1].lower() in IMAGE_EXTENSIONS and not base.startswith("._")


def sample_key(member: str) -> str:
    """WebDataset's rule: the path up to the first dot of the base name."""
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.split(".", 1)[0]
