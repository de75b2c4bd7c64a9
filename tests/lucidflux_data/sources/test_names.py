"""Names that a uri cannot hold as they are, things that are no regular file, and uris that nobody can read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import read_bytes, read_known
from lucidflux_data.sources.uris import escape_name, restore_name
from tests.support.odd_sources import jpeg, tar_bytes, write


def read_all(*sources: Path) -> dict[str, bytes]:
    """Every candidate by its name in the source."""
    rows = list_sources([os.fspath(source) for source in sources]).table.to_pylist()
    return {row["source_key"]: read_bytes(row["uri"], row["offset"], row["size"]) for row in rows}


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_never_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos"
    write(folder / "a.jpg", jpeg(1))
    names = ["p.jpg", "p.tar", "p.parquet", "p.json", "q.parquet", "metadata.csv"]
    write(folder / "q.tar", tar_bytes([("m.jpg", jpeg(2))]))
    monkeypatch.chdir(folder)
    for name in names:
        if kind == "pipe":
            os.mkfifo(name)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(name)
        else:
            os.symlink("/dev/zero", name)
    listing = list_sources([str(folder)])
    assert listing.table["source_key"].to_pylist() == ["a.jpg", "q.tar#m.jpg"]
    assert listing.ignored == len(names)
    assert list_sources([f"{folder}/*"]).ignored == len(names)
    for name in names[:3]:
        with pytest.raises(InputError, match="no regular file"):
            list_sources([f"{folder}/{name}"])
    for uri, offset in ((f"{folder}/p.jpg", -1), (f"{folder}/p.tar#m.jpg", 512), (f"{folder}/p.parquet#0", -1)):
        for protocol in ("file://", "local://", ""):
            with pytest.raises(ImageError, match="unreadable: it is no regular file"):
                read_bytes(protocol + uri, offset, 10)


def test_marks_in_names_of_folders_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "a.tar#b" / "c.parquet#7"
    write(folder / "x.jpg", jpeg(1))
    write(folder / "y.tar#1.jpg", jpeg(2))
    write(folder / "z.parquet#2.jpg", jpeg(3))
    write(folder / "s.tar", tar_bytes([("m.tar#n.jpg", jpeg(4)), ("o.jpg", jpeg(5))]))
    pq.write_table(pa.table({"image": pa.array([jpeg(6)], pa.binary())}), folder / "t.parquet")
    pq.write_table(pa.table({"path": ["x.jpg", "w.jpg"]}), folder / "u.parquet")
    write(folder / "w.jpg", jpeg(7))
    found = read_all(folder)
    assert found == {
        "u.parquet#x.jpg": jpeg(1),  # listed twice, one candidate
        "y.tar#1.jpg": jpeg(2),
        "z.parquet#2.jpg": jpeg(3),
        r"s.tar#m.tar\x23n.jpg": jpeg(4),
        "s.tar#o.jpg": jpeg(5),
        "t.parquet#000000000": jpeg(6),
        "u.parquet#w.jpg": jpeg(7),
    }
    assert read_all(folder / "s.tar") == {r"m.tar\x23n.jpg": jpeg(4), "o.jpg": jpeg(5)}
    assert read_all(folder / "t.parquet") == {"000000000": jpeg(6)}


def test_names_that_are_not_utf_8_are_escaped_and_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "photos")
    os.makedirs(folder + b"/\xd5\xd5")
    for name, number in ((b"\xd5\xd5/\xe8.jpg", 1), (rb"\xe8.jpg", 2), (b"\xe8.jpg", 3), ("ü.jpg".encode(), 4)):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(jpeg(number))
    Path(os.fsdecode(folder + b"/\xd5.tar")).write_bytes(tar_bytes([("m.jpg", jpeg(5))]))
    pq.write_table(pa.table({"image": pa.array([jpeg(6)], pa.binary())}), tmp_path / "t.parquet")
    os.rename(tmp_path / "t.parquet", os.fsdecode(folder + b"/\xd6.parquet"))
    rows = list_sources([os.fsdecode(folder)]).table.to_pylist()
    named = {row["uri"].removeprefix(f"file://{tmp_path}/photos/"): row for row in rows}
    read = {name: read_bytes(row["uri"], row["offset"], row["size"]) for name, row in named.items()}
    assert read == {
        r"\xd5\xd5/\xe8.jpg": jpeg(1),
        r"\x5cxe8.jpg": jpeg(2),
        r"\xe8.jpg": jpeg(3),
        "ü.jpg": jpeg(4),
        r"\xd5.tar#m.jpg": jpeg(5),
        r"\xd6.parquet#0": jpeg(6),
    }


@pytest.mark.parametrize("name", ["a.jpg", "a#b", r"a\b", r"a\x23", "a.tar#b.PARQUET#c", "\udcff\\xff", r"\x5cx5c"])
def test_escapes_come_back(name: str) -> None:
    assert restore_name(escape_name(name)) == name
    escape_name(name).encode()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("nosuch://bucket/x.jpg", "unreadable: the uri cannot be read: nosuch://"),
        ("sftp://127.0.0.1:9/x.jpg", "unreadable: "),
        ("s3://bucket/x.jpg", "unreadable: "),
        ("{folder}/x.parquet#abc", "unreadable: what stands after .parquet# is no number"),
        ("x.parquet#abc", "unreadable: what stands after .parquet# is no number"),
        ("{folder}/t.parquet#1", "missing: the Parquet file has no such row"),
        ("{folder}/u.parquet#0", "unreadable: the Parquet file has no column of images"),
        ("{folder}/t.parquet#99999999999999999", "missing"),
        ("{folder}/nul\0.jpg", "unreadable"),
        ("http://[::1/x.jpg", "unreadable"),
        ("s3://", "unreadable"),
        ("://", "missing"),
    ],
)
def test_one_odd_row_is_one_failed_row(uri: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    pq.write_table(pa.table({"image": pa.array([jpeg(1)], pa.binary())}), tmp_path / "t.parquet")
    write(tmp_path / "good.jpg", jpeg(2))
    pq.write_table(pa.table({"uri": ["good.jpg", uri.format(folder=tmp_path)]}), tmp_path / "u.parquet")
    rows = list_sources([str(tmp_path / "u.parquet")]).table.to_pylist()
    (good,) = (row for row in rows if row["source_key"] == "good.jpg")
    (odd,) = (row for row in rows if row["source_key"] != "good.jpg")
    assert read_bytes(good["uri"]) == jpeg(2)
    with pytest.raises(ImageError) as caught:
        read_bytes(odd["uri"])
    assert str(caught.value).startswith(told)


def test_a_store_that_can_no_longer_be_spoken_to_stops_a_later_step() -> None:
    with pytest.raises(InputError, match="nosuch://"):
        read_known("nosuch://bucket/x.jpg")
