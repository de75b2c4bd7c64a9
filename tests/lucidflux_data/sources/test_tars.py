"""Tars as people have them: repeated names, damage in the middle, links, other encodings, one behind another."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage.folder import Folder
from tests.support.odd_sources import header_offset, jpeg, tar_bytes, write

PLAIN = [(f"a{number}.jpg", jpeg(number)) for number in range(6)]


def read_all(listing: Listing) -> dict[str, bytes]:
    rows = listing.table.to_pylist()
    return {row["source_key"]: read_bytes(row["uri"], row["offset"], row["size"]) for row in rows}


def plain() -> bytearray:
    return bytearray(tar_bytes(PLAIN, format=tarfile.USTAR_FORMAT))


@pytest.mark.parametrize("json_first", [False, True])
def test_of_two_members_with_one_name_the_last_wins_with_its_own_json(json_first: bool, tmp_path: Path) -> None:
    first = [("x.jpg", jpeg(1)), ("x.json", b'{"n": 1}')]
    second = [("x.jpg", jpeg(2)), ("x.json", b'{"n": 2}')]
    if json_first:
        first, second = first[::-1], second[::-1]
    path = write(tmp_path / "s.tar", tar_bytes([*first, *second, ("y.jpg", jpeg(3))]))
    listing = list_sources([str(path)])
    assert read_all(listing) == {"x.jpg": jpeg(2), "y.jpg": jpeg(3)}
    assert [row["side"] for row in listing.table.to_pylist()] == ['{"n": 2}', None]
    assert (listing.ignored, listing.ignored_by) == (1, {"duplicate_members": 1})


def test_a_json_goes_with_the_member_it_stands_beside(tmp_path: Path) -> None:
    members = [("x.jpg", jpeg(1)), ("x.json", b'{"n": 1}'), ("x.jpg", jpeg(2)), ("z.jpg", jpeg(3)), ("z.json", b"{}")]
    listing = list_sources([str(write(tmp_path / "s.tar", tar_bytes(members)))])
    assert {row["source_key"]: row["side"] for row in listing.table.to_pylist()} == {"x.jpg": None, "z.jpg": "{}"}
    apart = [("x.jpg", jpeg(1)), ("y.jpg", jpeg(2)), ("x.json", b"[1]"), ("y.json", b"[2]")]
    listing = list_sources([str(write(tmp_path / "t.tar", tar_bytes(apart)))])
    assert {row["source_key"]: row["side"] for row in listing.table.to_pylist()} == {"x.jpg": "[1]", "y.jpg": "[2]"}


@pytest.mark.parametrize("damage", ["checksum", "zeros_in_it", "noise", "text"])
def test_a_damaged_header_costs_one_member_and_is_told(damage: str, tmp_path: Path) -> None:
    data = plain()
    at = header_offset(data, 3)
    new = {
        "checksum": data[at : at + 148] + b"000000" + data[at + 154 : at + 512],
        "zeros_in_it": data[at : at + 100] + bytes(100) + data[at + 200 : at + 512],
        "noise": random.Random(0).randbytes(512),
        "text": b"x" * 512,
    }[damage]
    data[at : at + 512] = new
    path = write(tmp_path / "s.tar", bytes(data))
    listing = list_sources([str(path)])
    assert read_all(listing) == {name: image for number, (name, image) in enumerate(PLAIN) if number != 3}
    assert listing.damaged_tars == [f"file://{path}"]
    assert listing.ignored_by == {"damaged_tails": 1}


def test_every_cut_and_every_damaged_byte_of_a_header_is_told(tmp_path: Path) -> None:
    data = plain()
    end = header_offset(data, 6)
    for cut in (header_offset(data, 1), header_offset(data, 3), header_offset(data, 3) + 100, end - 1, end):
        listing = list_sources([str(write(tmp_path / "cut.tar", bytes(data[:cut])))])
        assert listing.damaged_tars, cut
    at = header_offset(data, 2)
    for byte in (n for n in range(0, 345, 5) if n != 155):  # what stands behind the checksum's NUL means nothing
        changed = bytearray(data)
        changed[at + byte] ^= 0x41
        listing = list_sources([str(write(tmp_path / "byte.tar", bytes(changed)))])
        assert listing.damaged_tars, byte
        whole = [jpeg(number) for number in (0, 1, 3, 4, 5)]
        assert all(image in read_all(listing).values() for image in whole), byte
    assert list_sources([str(write(tmp_path / "whole.tar", bytes(data)))]).damaged_tars == []


@pytest.mark.parametrize("size", [2**60, 2**80, -512, -(2**40)])
def test_a_member_that_lies_about_its_size_costs_the_tail(size: int, tmp_path: Path) -> None:
    data = plain()
    at = header_offset(data, 3)
    info = tarfile.TarInfo("a3.jpg")
    info.size = 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    data[at : at + 512] = header
    listing = list_sources([str(write(tmp_path / "s.tar", bytes(data)))])
    assert listing.damaged_tars
    read, failed = {}, {}
    for row in listing.table.to_pylist():
        try:
            read[row["source_key"]] = read_bytes(row["uri"], row["offset"], row["size"])
        except ImageError as error:
            failed[row["source_key"]] = error.reason
    assert dict(PLAIN[:3]).items() <= read.items()
    assert size < 0 or dict(PLAIN[4:]).items() <= read.items()
    assert "a3.jpg" not in read
    assert failed in ({}, {"a3.jpg": "truncated"})


@pytest.mark.parametrize("start", [b"", b"no header", bytes(plain())])
def test_forty_gigabytes_of_nothing_are_passed_at_once(start: bytes, tmp_path: Path) -> None:
    """A sparse file: its hole is no block after another, as the standard library takes it (hours)."""
    path = write(tmp_path / "s.tar", start)
    os.truncate(path, 40 << 30)
    with open(path, "r+b") as file:
        file.seek((40 << 30) - (1 << 20))
        file.write(tar_bytes([("last.jpg", jpeg(99))]))
    listing = list_sources([str(path)])
    expected = dict(PLAIN) if start.startswith(bytes(plain())[:512]) else {}
    assert read_all(listing) == expected | {"last.jpg": jpeg(99)}
    assert bool(listing.damaged_tars) == (start == b"no header")


def test_zeros_between_two_tars_are_passed(tmp_path: Path) -> None:
    """Where the file system has them, and where it is a store that knows no holes."""
    data = tar_bytes(PLAIN[:2]) + bytes(9 << 20) + tar_bytes(PLAIN[2:])
    assert read_all(list_sources([str(write(tmp_path / "s.tar", data))])) == dict(PLAIN)
    Folder("memory://zeros").publish("s.tar", data)
    assert read_all(list_sources(["memory://zeros/s.tar"])) == dict(PLAIN)


def test_a_long_header_that_lies_is_no_memory_error(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x" * 300 + ".jpg")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(2**50, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    listing = list_sources([str(write(tmp_path / "s.tar", bytes(header[:512]) + bytes(plain())))])
    assert read_all(listing) == dict(PLAIN)
    assert listing.damaged_tars


def test_two_tars_one_behind_the_other_are_both_read(tmp_path: Path) -> None:
    data = tar_bytes(PLAIN[:2]) + tar_bytes(PLAIN[2:])
    listing = list_sources([str(write(tmp_path / "s.tar", data))])
    assert read_all(listing) == dict(PLAIN)
    assert (listing.damaged_tars, listing.ignored) == ([], 0)
    cut = tar_bytes(PLAIN[:2]) + bytes(plain()[: header_offset(plain(), 2)])
    assert list_sources([str(write(tmp_path / "t.tar", cut))]).damaged_tars


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    members = [("\u7167\u7247/\u732b.jpg", jpeg(1)), ("ok.jpg", jpeg(2))]
    path = write(tmp_path / "s.tar", tar_bytes(members, format=tarfile.GNU_FORMAT, encoding="gbk"))
    listing = list_sources([str(path)])
    assert read_all(listing) == {"\\xd5\\xd5\u01ac/\u00e8.jpg": jpeg(1), "ok.jpg": jpeg(2)}
    assert listing.ignored == 0


def test_links_folders_and_pipes_in_a_tar(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("h.jpg", tarfile.LNKTYPE), ("s.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a0.jpg"
            tar.addfile(info)
        info = tarfile.TarInfo("p.jpg")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
        info = tarfile.TarInfo("a0.jpg")
        info.size = len(jpeg(0))
        tar.addfile(info, io.BytesIO(jpeg(0)))
    listing = list_sources([str(write(tmp_path / "s.tar", out.getvalue()))])
    assert read_all(listing) == {"a0.jpg": jpeg(0)}
    assert listing.ignored_by == {"not_regular": 1, "links": 2}


def test_a_tar_in_capitals_and_its_twin(tmp_path: Path) -> None:
    path = write(tmp_path / "SHARD.TAR", tar_bytes([("a.jpg", jpeg(1)), ("b.JPG", jpeg(2)), ("a.json", b'{"n": 1}')]))
    for source in (path, tmp_path):
        listing = list_sources([str(source)])
        assert list(read_all(listing).values()) == [jpeg(1), jpeg(2)]
        assert [json.loads(row["side"] or "0") for row in listing.table.to_pylist()] == [{"n": 1}, 0]


def test_a_json_in_capitals_is_side_data(tmp_path: Path) -> None:
    write(tmp_path / "s.tar", tar_bytes([("A.JPG", jpeg(1)), ("A.JSON", b'{"n": 1}')]))
    listing = list_sources([str(tmp_path)])
    assert [row["side"] for row in listing.table.to_pylist()] == ['{"n": 1}']
    assert listing.ignored == 0


@pytest.mark.parametrize("name", ["photos.zip", "photos.7z", "PHOTOS.RAR"])
def test_an_archive_is_named(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, b"PK\3\4")
    with pytest.raises(InputError, match=f"{name} is a packed archive and is not read: unpack it"):
        list_sources([str(tmp_path / name)])
    write(tmp_path / "a.jpg", jpeg(1))
    listing = list_sources([str(tmp_path)])
    assert listing.ignored_by == {"packed_tars": 1}
    write(tmp_path / "called.tar", b"PK\3\4" + bytes(2000))
    listing = list_sources([str(tmp_path)])
    assert (listing.ignored_by, listing.damaged_tars) == ({"packed_tars": 2}, [])


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "S.TAR.GZ", "s.tar.lz4", "s.tar.Z", "s.tlz"])
def test_a_packed_tar_is_named(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, gzip.compress(tar_bytes(PLAIN)))
    for source in (path, tmp_path):
        with pytest.raises(InputError, match=f"{name} is a packed tar and is not read"):
            list_sources([str(source)])
    write(tmp_path / "a.jpg", jpeg(1))
    listing = list_sources([str(tmp_path)])
    assert listing.ignored_by == {"packed_tars": 1}
    assert name in listing.warnings[0]
    packed = write(tmp_path / "called.tar", gzip.compress(tar_bytes(PLAIN)))
    with pytest.raises(InputError, match=r"called\.tar is a packed tar and is not read"):
        list_sources([str(packed)])
    listing = list_sources([str(tmp_path)])
    assert (listing.ignored_by, listing.damaged_tars) == ({"packed_tars": 2}, [])
