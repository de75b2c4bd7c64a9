"""Sources as people have them: what is listed, what is counted as ignored, and which bytes are read."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.selection.columns import read_join
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.reading import read_bytes


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], **how: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **how) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(file.getvalue())
    return file.getvalue()


def read_all(listing: Listing) -> dict[str, bytes]:
    rows = listing.table.to_pylist()
    return {row["source_key"]: read_bytes(row["uri"], row["offset"], row["size"]) for row in rows}


def header_of(raw: bytes, number: int) -> int:
    at = 0
    for _ in range(number):
        at += 512 + -(-int(raw[at + 124 : at + 135], 8) // 512) * 512
    return at


def test_of_a_name_that_comes_twice_the_last_counts_with_the_json_beside_it(tmp_path: Path) -> None:
    members = [("x.png", image(1)), ("x.json", b'{"n": 1}'), ("x.png", image(2)), ("x.json", b'{"n": 2}')]
    write_tar(tmp_path / "s.tar", [*members, ("y.png", image(3))])
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {"s.tar#x.png": image(2), "s.tar#y.png": image(3)}
    assert {row["source_key"]: row["side"] for row in listing.table.to_pylist()} == {
        "s.tar#x.png": '{"n": 2}',
        "s.tar#y.png": None,
    }
    assert listing.ignored == 1


def test_a_json_that_stands_beside_the_replaced_one_is_not_of_the_other(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s.tar", [("x.png", image(1)), ("x.json", b'{"n": 1}'), ("y.png", image(3)), ("x.png", image(2))]
    )
    listing = list_sources([str(tmp_path)])
    assert {row["side"] for row in listing.table.to_pylist()} == {None}


def test_json_that_stands_apart_goes_with_its_only_image(tmp_path: Path) -> None:
    sides = [(f"{name}.json", f'{{"of": "{name}"}}'.encode()) for name in "abc"]
    write_tar(tmp_path / "s.tar", [*((f"{name}.png", image(1)) for name in "abc"), *sides])
    rows = list_sources([str(tmp_path)]).table.to_pylist()
    assert [row["side"] for row in rows] == ['{"of": "a"}', '{"of": "b"}', '{"of": "c"}']


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("field", [(148, b"000000"), (124, b"zzzzzz"), (0, b"\xff\xfe"), (257, b"USTAR")])
def test_a_damaged_header_costs_one_member(number: int, field: tuple[int, bytes], tmp_path: Path) -> None:
    names = [f"a{n}.png" for n in range(6)]
    raw = bytearray(
        write_tar(tmp_path / "s.tar", [(name, image(n)) for n, name in enumerate(names)], format=tarfile.USTAR_FORMAT)
    )
    at = header_of(bytes(raw), number) + field[0]
    raw[at : at + len(field[1])] = field[1]
    (tmp_path / "s.tar").write_bytes(raw)
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {f"s.tar#{name}": image(n) for n, name in enumerate(names) if n != number}
    assert listing.damaged_tars == [f"file://{tmp_path}/s.tar"]


def test_a_size_of_2_to_the_60_costs_the_tail(tmp_path: Path) -> None:
    raw = bytearray(write_tar(tmp_path / "s.tar", [(f"a{n}.png", image(n)) for n in range(4)]))
    at = header_of(bytes(raw), 2)
    info = tarfile.TarInfo("a2.png")
    info.size = 2**60
    raw[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "s.tar").write_bytes(raw)
    listing = list_sources([str(tmp_path)])
    assert listing.damaged_tars
    rows = {row["source_key"]: row for row in listing.table.to_pylist()}
    assert {"s.tar#a0.png", "s.tar#a1.png"} <= set(rows)
    for row in rows.values():
        if row["size"] == 2**60:
            with pytest.raises(ImageError) as caught:
                read_bytes(row["uri"], row["offset"], row["size"])
            assert caught.value.reason == "truncated"


def test_two_tars_one_after_the_other_are_both_read(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "s.tar", [("a.png", image(1))])
    second = write_tar(tmp_path / "s.tar", [("b.png", image(2))])
    (tmp_path / "s.tar").write_bytes(first + second)
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {"s.tar#a.png": image(1), "s.tar#b.png": image(2)}
    assert listing.damaged_tars == []


def test_names_that_are_not_utf8_are_escaped_and_read(tmp_path: Path) -> None:
    members = [("\u7167\u7247/\u732b.png", image(1)), ("ok.png", image(2))]
    write_tar(tmp_path / "s.tar", members, format=tarfile.GNU_FORMAT, encoding="gbk")
    found = read_all(list_sources([str(tmp_path)]))
    assert sorted(found.values()) == sorted([image(1), image(2)])
    assert any("\\xd5" in name and name.endswith(".png") for name in found)


def test_upper_case_compressed_and_empty_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "SHARD.TAR", [("a.png", image(1)), ("b.PNG", image(2))])
    write_tar(tmp_path / "c.tar", [("c.png", image(3))])
    (tmp_path / "c.tar").rename(tmp_path / "c.tar.gz")
    (tmp_path / "empty.tar").write_bytes(b"")
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {"SHARD.TAR#a.png": image(1), "SHARD.TAR#b.PNG": image(2)}
    assert listing.damaged_tars == [f"file://{tmp_path}/empty.tar"]
    assert listing.ignored_by == {"packed_tars": 1, "damaged_tails": 1}
    assert any("c.tar.gz" in warning for warning in listing.warnings)
    with pytest.raises(InputError):
        list_sources([str(tmp_path / "c.tar.gz")])


def test_links_in_tars_are_counted_and_never_another_picture(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(image(1))
        tar.addfile(info, io.BytesIO(image(1)))
        for kind, name in ((tarfile.LNKTYPE, "hard.png"), (tarfile.SYMTYPE, "soft.png"), (tarfile.FIFOTYPE, "p.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.png"
            tar.addfile(link)
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {"s.tar#a.png": image(1)}
    assert listing.ignored == 3


@pytest.mark.parametrize("folder", ["x.tar#1", "x.parquet#7", "x.tar", "y.TAR#"])
def test_marks_of_ours_in_names_of_theirs(folder: str, tmp_path: Path) -> None:
    place = tmp_path / folder
    place.mkdir()
    (place / "photo.tar#1.png").write_bytes(image(1))
    (place / "rows.parquet#2.png").write_bytes(image(2))
    write_tar(place / "s.tar", [("in.tar#1.png", image(3))])
    pq.write_table(pa.table({"image": pa.array([image(4)], pa.binary())}), place / "t.parquet")
    assert sorted(read_all(list_sources([str(tmp_path)])).values()) == sorted(image(n) for n in (1, 2, 3, 4))


@pytest.mark.timeout(20)
def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    for name in ("p.png", "p.tar", "p.parquet", "p.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        listing = list_sources([str(tmp_path)])
    assert list(read_all(listing)) == ["a.png"]
    assert listing.ignored == 6
    for name in ("p.png", "device.png"):
        with pytest.raises(ImageError) as caught:
            read_bytes(f"file://{tmp_path / name}")
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("uri", ["nosuch://x/y.png", "file:///gone/x.parquet#abc", "c:\\x.png", "://", "s3:/x", "\0"])
def test_an_odd_uri_is_a_failure_of_one_row(uri: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_bytes(uri)
    assert caught.value.reason in ("unreadable", "missing")


def test_files_beside_good_parquet_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([image(1), image(2)], pa.binary())}), tmp_path / "00000.parquet")
    (tmp_path / "._00000.parquet").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1" + bytes(100))
    listing = list_sources([str(tmp_path)])
    assert sorted(read_all(listing).values()) == sorted([image(1), image(2)])
    assert any("damaged.parquet" in warning for warning in listing.warnings)
    assert listing.ignored == 4
    with pytest.raises(InputError, match="damaged"):
        list_sources([str(tmp_path / "damaged.parquet")])


@pytest.mark.parametrize("asked", ["photos.parquet", ""])
def test_a_folder_called_parquet(asked: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos.parquet"
    folder.mkdir()
    for part in range(2):
        rows = pa.array([image(2 * part), image(2 * part + 1)], pa.binary())
        pq.write_table(pa.table({"image": rows}), folder / f"part-0000{part}.parquet")
    (folder / "_SUCCESS").write_bytes(b"")
    listing = list_sources([str(tmp_path / asked)])
    assert sorted(read_all(listing).values()) == sorted(image(n) for n in range(4))
    assert listing.ignored == 1


NAMES = st.sampled_from(["a.png", "b.png", "a.json", "d/a.png", "notes.txt", "b.PNG", "c.jpg", "a.b.png", "._a.png"])


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(NAMES, st.integers(0, 5)), min_size=1, max_size=12))
def test_whatever_stands_in_a_tar_the_sum_holds(tmp_path_factory: pytest.TempPathFactory, members: list) -> None:
    folder = tmp_path_factory.mktemp("tar")
    (folder / "z.png").write_bytes(image(9))
    contents = [(name, b"{}" if name.endswith("json") else image(number)) for name, number in members]
    write_tar(folder / "s.tar", contents)
    listing = list_sources([str(folder)])
    last = {name: data for name, data in contents if name.lower().endswith((".png", ".jpg")) and "._" not in name}
    assert read_all(listing) == {f"s.tar#{name}": data for name, data in last.items()} | {"z.png": image(9)}
    sides = sum(name.endswith(".json") for name, _ in contents)
    assert listing.table.num_rows - 1 + listing.ignored + sides == len(contents)


def test_folders_that_are_not_gone_into_are_counted(tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/in/b.png", "elsewhere/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image(1))
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path)
    listing = list_sources([str(tmp_path / "photos")])
    assert (set(read_all(listing)), listing.ignored_by) == ({"a.png", "in/b.png"}, {"folders": 2})
    listing = list_sources([str(tmp_path / "photos" / "*")])
    assert (set(read_all(listing)), listing.ignored_by) == ({"a.png"}, {"folders": 3})
    assert any("photos/in is a folder that the pattern matches" in warning for warning in listing.warnings)
    listing = list_sources([str(tmp_path / "photos" / "**" / "*.png")])
    assert {"a.png", "in/b.png"} <= set(read_all(listing))
    assert "folders" not in listing.ignored_by


@pytest.mark.parametrize("name", ["a.mpo", "a.apng", "a.HIF", "a.avifs", "a.j2c", "a.jif"])
def test_other_extensions_of_formats_that_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(image(1))
    assert read_all(list_sources([str(tmp_path)])) == {name: image(1)}


def test_json_with_a_byte_order_mark_is_side_data(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.png", image(1)), ("a.json", b'\xef\xbb\xbf{"n": 1}')])
    assert list_sources([str(tmp_path)]).table["side"].to_pylist() == ['{"n": 1}']


def test_columns_of_one_name_end_no_listing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    (tmp_path / "metadata.csv").write_text("file_name,n,n\na.png,1,2\n")
    assert list_sources([str(tmp_path)]).table["side"].to_pylist() == ['{"n": 2}']
    pq.write_table(pa.table([["a.png"], [1], [2]], names=["uri", "n", "n"]), tmp_path / "labels.parquet")
    with pytest.raises(InputError, match=r"labels\.parquet has two columns called 'n'"):
        read_join(str(tmp_path / "labels.parquet"))


def test_links_that_lead_nowhere_cost_no_listing(tmp_path: Path) -> None:
    write_tar(tmp_path / "good.tar", [("a.png", image(1))])
    for name in ("gone.tar", "gone.parquet", "metadata.csv", "good.parquet", "gone.png"):
        (tmp_path / name).symlink_to("/nowhere/at/all")
    for name in ("loop.tar", "loop.parquet", "loop.png"):
        (tmp_path / name).symlink_to(name)
    for source in (tmp_path, tmp_path / "*"):
        listing = list_sources([str(source)])
        names = [row["source_key"] for row in listing.table.to_pylist()]
        assert sorted(names) == ["gone.png", "good.tar#a.png", "loop.png"]
        assert listing.ignored_by == {"damaged_files": 4, "other_files": 2}
        told = {warning.removeprefix(f"{tmp_path}/") for warning in listing.warnings}
        assert told == {
            "gone.tar is not there",
            "gone.parquet is not there",
            "loop.tar cannot be read: Too many levels of symbolic links",
            "loop.parquet cannot be read: Too many levels of symbolic links",
        }
    for name in ("gone.tar", "gone.parquet", "loop.tar", "loop.parquet"):
        with pytest.raises(InputError, match=name):
            list_sources([str(tmp_path / name)])
