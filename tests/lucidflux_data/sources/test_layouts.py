"""Parquet files and folders as other tools write them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.parquet import unread_columns
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage.folder import SETTINGS, configure
from tests.support.odd_sources import jpeg, tar_bytes, write

DATA = [jpeg(number) for number in range(3)]
LONGEST = max(map(len, DATA))


def read_all(listing: Listing) -> dict[str, bytes]:
    rows = listing.table.to_pylist()
    return {row["source_key"]: read_bytes(row["uri"], row["offset"], row["size"]) for row in rows}


def sides(listing: Listing) -> dict[str, object]:
    return {row["source_key"]: json.loads(row["side"] or "null") for row in listing.table.to_pylist()}


def table(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


COLUMNS = {
    "binary": pa.array(DATA, pa.binary()),
    "large": pa.array(DATA, pa.large_binary()),
    "view": pa.array(DATA, pa.binary_view()),
    "dictionary": pa.array(DATA, pa.binary()).dictionary_encode(),
    "fixed": pa.array([data.ljust(LONGEST, b"\0") for data in DATA], pa.binary(LONGEST)),
    "struct": pa.array([{"bytes": data, "path": None} for data in DATA]),
    "large_struct": pa.array([{"bytes": data} for data in DATA], pa.struct([("bytes", pa.large_binary())])),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", ["image", "Image", "JPG"])
def test_every_type_of_bytes_under_a_name_in_any_case(kind: str, name: str, tmp_path: Path) -> None:
    tags = pa.array([[{"a": 1}], [], None], pa.list_(pa.struct([("a", pa.int64())])))
    path = table(tmp_path / "t.parquet", tags=tags, **{name: COLUMNS[kind]}, n=[1, 2, 3])
    listing = list_sources([str(path)])
    read = read_all(listing)
    assert [read[f"{n:09d}"].ljust(LONGEST, b"\0") for n in range(3)] == [d.ljust(LONGEST, b"\0") for d in DATA]
    assert list(sides(listing).values()) == [{"n": 1}, {"n": 2}, {"n": 3}]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_every_type_of_text_under_a_name_in_any_case(kind: object, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.jpg", DATA[number])
    names = ["0.jpg", None, "1.jpg", "0.jpg", ""]
    column = pa.array(names).dictionary_encode() if kind == "dictionary" else pa.array(names, kind)
    listing = list_sources([str(table(tmp_path / "t.parquet", URL=column, Label=list("abcde")))])
    assert read_all(listing) == {"0.jpg": DATA[0], "1.jpg": DATA[1]}
    assert sides(listing) == {"0.jpg": {"Label": "a"}, "1.jpg": {"Label": "c"}}
    assert (listing.ignored, listing.ignored_by) == (3, {"duplicate_rows": 1, "null_rows": 2})


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ONE = {"bytes": DATA[0], "path": "x"}
UNREAD = {
    "list": pa.array([[ONE, ONE], []], pa.list_(IMAGE)),
    "large_list": pa.array([[ONE], None], pa.large_list(IMAGE)),
    "fixed_list": pa.array([[ONE], [ONE]], pa.list_(IMAGE, 1)),
    "list_view": pa.array([[ONE], []], pa.list_view(IMAGE)),
    "struct": pa.array([{"left": ONE}, None], pa.struct([("left", IMAGE)])),
    "map": pa.array([[("left", ONE)], []], pa.map_(pa.string(), IMAGE)),
    "bytes": pa.array([DATA[:2], []], pa.list_(pa.binary())),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_lists_of_images_are_named(kind: str, tmp_path: Path) -> None:
    if kind == "list_view":  # pyarrow has no Parquet of it: what reads the schema has to know it all the same
        assert unread_columns(pa.schema([("images", UNREAD[kind].type)]), None) == ["images"]
        return
    told = "images that images may hold are not read: an image a row is"
    with pytest.raises(InputError, match=f"holds no images.*{told}"):
        list_sources([str(table(tmp_path / "t.parquet", images=UNREAD[kind]))])
    write(tmp_path / "a.jpg", DATA[1])
    listing = list_sources([str(tmp_path)])
    assert (listing.ignored_by, listing.warnings) == ({"other_files": 1}, [f"{tmp_path}/t.parquet: {told}"])


def test_a_second_column_of_images_is_named_once_for_all_files(tmp_path: Path) -> None:
    for part in range(3):
        columns = {"image": pa.array([jpeg(part)], pa.binary()), "mask": pa.array([ONE], IMAGE), "n": [part]}
        table(tmp_path / f"{part}.parquet", **columns, **({"extra": pa.array([[ONE]])} if part == 2 else {}))
    listing = list_sources([str(tmp_path)])
    assert sorted(read_all(listing).values()) == sorted(map(jpeg, range(3)))
    read = "may hold are not read: one column of images is read, an image a row (here image)"
    told = {"0": "mask", "2": "mask, extra"}
    assert listing.warnings == [
        f"{tmp_path}/{part}.parquet: images that {names} {read}" for part, names in told.items()
    ]


@pytest.mark.parametrize("bytes_type", [pa.binary(), pa.null()])
def test_a_struct_without_bytes_names_its_path(bytes_type: pa.DataType, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", DATA[0])
    os.mkfifo(tmp_path / "in" / "p.jpg")
    paths = ["a.jpg", None, "nowhere.jpg", "t.parquet#3", "p.jpg"]
    kind = pa.struct([("bytes", bytes_type), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    rows = list_sources([str(table(tmp_path / "in" / "t.parquet", image=image))]).table.to_pylist()
    assert read_bytes(rows[0]["uri"]) == DATA[0]
    for row, told in (
        (1, "missing: the row has no image"),
        (2, "missing"),
        (3, "unreadable"),
        (4, "unreadable: it is no"),
    ):
        with pytest.raises(ImageError, match=told):
            read_bytes(rows[row]["uri"])


def test_a_folder_called_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "photos.parquet"
    for part in range(2):
        table(folder / f"part-{part}.parquet", image=pa.array([jpeg(2 * part), jpeg(2 * part + 1)], pa.binary()))
    write(folder / "_SUCCESS", b"")
    for source in (tmp_path, folder):
        listing = list_sources([str(source)])
        assert sorted(read_all(listing).values()) == sorted(map(jpeg, range(4)))
        assert listing.ignored_by == {"other_files": 1}


@pytest.mark.parametrize("bad", [b"", b"PAR1 nothing", b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000)])
@pytest.mark.parametrize("name", ["._0.parquet", "1.parquet"])
def test_a_damaged_file_beside_good_ones_is_counted_and_told(bad: bytes, name: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", DATA[2])
    write(tmp_path / name, bad)
    table(tmp_path / "0.parquet", image=pa.array(DATA[:2], pa.binary()))
    listing = list_sources([str(tmp_path)])
    assert sorted(read_all(listing).values()) == sorted(DATA)
    assert listing.ignored_by == {"damaged_files": 1}
    assert f"{name} is damaged, or no Parquet file" in listing.warnings[0]


def test_a_name_of_a_column_that_is_no_text_is_damage(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", DATA[2])
    for path in (tmp_path / "t.parquet", tmp_path / "metadata.parquet"):
        data = table(path, file_name=["a.jpg"], label=["x"]).read_bytes()
        path.write_bytes(data.replace(b"label", b"l\xb9bel").replace(b"file_name", b"file_n\xc3me"))
    listing = list_sources([str(tmp_path)])
    assert read_all(listing) == {"a.jpg": DATA[2]}
    assert listing.ignored_by == {"damaged_files": 2}


def test_a_damaged_twin_of_a_tar_leaves_the_tar(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", tar_bytes([("a.jpg", DATA[0])]))
    write(tmp_path / "0.parquet", b"PAR1")
    assert read_all(list_sources([str(tmp_path)])) == {"0.tar#a.jpg": DATA[0]}


def img2dataset_folder(out: Path, sidecars: bool = True) -> pa.Table:
    keys = [f"{number:09d}" for number in range(5)]
    rows = pa.table(
        {
            "url": [f"http://127.0.0.1:9/{key}.jpg" for key in keys],
            "caption": [f"caption {key}" for key in keys],
            "key": keys,
            "status": ["failed_to_download" if n == 3 else "success" for n in range(5)],
        }
    )
    write(out / "00000_stats.json", b'{"count": 5}')
    pq.write_table(rows, out / "00000.parquet")
    for number, row in enumerate(rows.to_pylist()):
        if row["status"] == "success":
            write(out / "00000" / f"{row['key']}.jpg", jpeg(number))
            if sidecars:
                write(out / "00000" / f"{row['key']}.json", json.dumps(row).encode())
    return rows


@pytest.mark.parametrize("sidecars", [True, False])
def test_img2dataset_files_have_their_columns_and_ask_no_url(sidecars: bool, tmp_path: Path) -> None:
    rows = {row["key"]: row for row in img2dataset_folder(tmp_path, sidecars).to_pylist() if row["key"][-1] != "3"}
    for source, folder in ((tmp_path, "00000/"), (tmp_path / "00000", "")):
        listing = list_sources([str(source)])
        assert sides(listing) == {f"{folder}{key}.jpg": row for key, row in rows.items()}
        assert sorted(read_all(listing).values()) == sorted(jpeg(number) for number in (0, 1, 2, 4))
    assert list_sources([str(tmp_path)]).ignored_by == {"other_files": 2}


def test_an_image_that_the_table_lacks_has_its_json(tmp_path: Path) -> None:
    img2dataset_folder(tmp_path)
    write(tmp_path / "00000" / "late.jpg", jpeg(9))
    write(tmp_path / "00000" / "late.json", b'{"n": 9}')
    write(tmp_path / "00000" / "torn.jpg", jpeg(8))
    write(tmp_path / "00000" / "torn.json", b'{"n"')
    found = sides(list_sources([str(tmp_path)]))
    assert (found["00000/late.jpg"], found["00000/torn.jpg"]) == ({"n": 9}, None)


def test_a_json_elsewhere_is_another_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(1))
    write(tmp_path / "a.json", b'{"n": 1}')
    listing = list_sources([str(tmp_path)])
    assert (sides(listing), listing.ignored_by) == ({"a.jpg": None}, {"other_files": 1})


METADATA = [{"file_name": "a.jpg", "label": "cat", "n": 1}, {"file_name": "in/z.jpg", "label": "dog", "n": 2.5}]


def write_metadata(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join("" if row[name] is None else str(row[name]) for name in rows[0]) for row in rows]
        path.write_text("\ufeff" + "\n".join([",".join(rows[0]), *lines, ""]), encoding="utf-8")
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_an_image_folder_gives_its_labels(form: str, tmp_path: Path) -> None:
    place = tmp_path / "odd.tar#é" / "train"
    for name, number in (("a.jpg", 1), ("in/z.jpg", 2), ("b.jpg", 3)):
        write(place / name, jpeg(number))
    more = [{"file_name": name, "label": "x", "n": 0} for name in ("a.jpg", None, "gone.jpg")]
    write_metadata(place / f"metadata.{form}", METADATA + more)
    listing = list_sources([str(place)])
    assert sides(listing) == {
        "a.jpg": {"label": "cat", "n": 1},
        "in/z.jpg": {"label": "dog", "n": 2.5},
        "b.jpg": None,
        f"metadata.{form}#gone.jpg": {"label": "x", "n": 0},
    }
    rows = {row["source_key"]: row["uri"] for row in listing.table.to_pylist()}
    assert [read_bytes(rows[name]) for name in ("a.jpg", "in/z.jpg", "b.jpg")] == [jpeg(1), jpeg(2), jpeg(3)]
    with pytest.raises(ImageError, match="missing"):
        read_bytes(rows[f"metadata.{form}#gone.jpg"])
    assert listing.ignored_by == {"duplicate_rows": 1, "null_rows": 1}


CELLS = [
    (["1", "-2", ""], [1, -2, None]),
    (["18446744073709551615", "9223372036854775807", "-9223372036854775808"], [str(2**64 - 1), 2**63 - 1, -(2**63)]),
    (["9223372036854775808", "-9223372036854775809", "9" * 5000], [str(2**63), str(-(2**63) - 1), "9" * 5000]),
    (["007", "7", "12"], ["007", "7", "12"]),
    (["00.5", "1", "2"], ["00.5", "1", "2"]),
    (["+49", "30", ""], ["+49", "30", None]),
    (["0.5", "1e999", "nan"], [0.5, None, None]),
    (["1", "2.5", ".5"], [1, 2.5, 0.5]),
    (["0.1", "NA", ""], [0.1, None, None]),
    (["NA", "DE", "null"], ["NA", "DE", "null"]),
    (["NaN", "nan", ""], ["NaN", "nan", None]),
    (["true", "False", ""], [True, False, None]),
    (["true", "yes", "1"], ["true", "yes", "1"]),
    (["2024-02-29", "2024-02-29 12:00", "12:00"], ["2024-02-29", "2024-02-29 12:00", "12:00"]),
    (["0x1F", "1_000", "\u0661"], ["0x1F", "1_000", "\u0661"]),
    ([" 7", "7 ", "7"], [" 7", "7 ", "7"]),
    (['"a,b"', '"say ""x"""', '"two\nlines"'], ["a,b", 'say "x"', "two\nlines"]),
]


def test_cells_of_a_csv_travel_as_they_stand(tmp_path: Path) -> None:
    lines = [",".join(["file_name", *(f"c{n}" for n in range(len(CELLS))), "c0"])]
    for row in range(3):
        write(tmp_path / f"00{row}.jpg", DATA[row])
        lines.append(",".join([f"00{row}.jpg", *(cells[row] for cells, _ in CELLS), CELLS[0][0][row]]))
    write(tmp_path / "metadata.csv", ("\ufeff" + "\r\n".join(lines)).encode())
    found = list(sides(list_sources([str(tmp_path)])).values())
    for number, (cells, forms) in enumerate(CELLS):
        told = [json.dumps(row.get(f"c{number}")) for row in found]
        assert told == list(map(json.dumps, forms)), cells


def test_a_csv_whose_names_are_numbers(tmp_path: Path) -> None:
    write(tmp_path / "007", DATA[0])
    write(tmp_path / "metadata.csv", b"\nfile_name,n\n007,1\n")
    (row,) = list_sources([str(tmp_path)]).table.to_pylist()
    assert (read_bytes(row["uri"]), json.loads(row["side"])) == (DATA[0], {"n": 1})


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("content", [b"\xff\xfe\0[", b"{"])
def test_damaged_metadata_leaves_the_images(form: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(1))
    write(tmp_path / f"metadata.{form}", content)
    listing = list_sources([str(tmp_path)])
    assert sides(listing) == {"a.jpg": None}
    assert listing.ignored == 1


def test_a_table_without_names_of_files_is_no_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(1))
    write(tmp_path / "metadata.csv", b"id,label\n1,cat\n")
    table(tmp_path / "metadata.parquet", image=pa.array(DATA[:1], pa.binary()))
    listing = list_sources([str(tmp_path)])
    assert set(read_all(listing)) == {"a.jpg", "metadata.parquet#000000000"}
    assert listing.ignored_by == {"other_files": 1}


@pytest.mark.parametrize("header", ["file_name;label", "file_name\tlabel", "File Name,label"])
def test_a_column_that_seems_to_be_meant_is_told_of(header: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", jpeg(1))
    write(tmp_path / "metadata.csv", f"{header}\na.jpg,cat\n".encode())
    listing = list_sources([str(tmp_path)])
    assert (sides(listing), listing.ignored_by) == ({"a.jpg": None}, {"other_files": 1})
    assert listing.warnings == [f"{tmp_path}/metadata.csv has no column called file_name: it gives the images nothing"]


@pytest.mark.parametrize("good", [0, 2])
def test_rows_with_another_number_of_cells_cost_themselves(good: int, tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.jpg", jpeg(ord(name)))
    rows = [f"{name}.jpg,{name}" for name in "ab"[:good]]
    write(tmp_path / "metadata.csv", "\n".join(["file_name,label", "c.jpg", *rows, "c.jpg,1,2"]).encode())
    listing = list_sources([str(tmp_path)])
    labels = {f"{name}.jpg": {"label": name} if name in "ab"[:good] else None for name in "abc"}
    assert (sides(listing), listing.ignored_by) == (labels, {"damaged_files": 1})
    assert listing.warnings == [
        f"{tmp_path}/metadata.csv has 2 rows with more or fewer cells than its header: they are left out"
    ]


def test_an_encrypted_table_is_called_so(tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

    made = encryption.CryptoFactory(lambda _: Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": ["image"]}),
    )
    content = pa.table({"image": DATA})
    with pq.ParquetWriter(tmp_path / "t.parquet", content.schema, encryption_properties=made) as writer:
        writer.write_table(content)
    with pytest.raises(InputError, match=r"t\.parquet is encrypted and is not read"):
        list_sources([str(tmp_path / "t.parquet")])


def test_a_store_gives_what_the_folder_gives(store, tmp_path: Path, monkeypatch) -> None:
    """img2dataset's files, ImageFolder in each form, odd names of folders, folders called parquet, damage."""
    place = tmp_path / "all"
    img2dataset_folder(place / "files")
    write(place / "files" / "00000" / "late.jpg", jpeg(9))
    write(place / "files" / "00000" / "late.json", b'{"n": 9}')
    for number, form in enumerate(("parquet", "csv", "jsonl")):
        folder = place / f"odd.tar#{form}" / "in.parquet#1"
        for name in ("a.jpg", "in/z.jpg", "b.jpg"):
            write(folder / name, jpeg(10 + number))
        more = [{"file_name": name, "label": "x", "n": 0} for name in ("./a.jpg", None, "gone.jpg")]
        write_metadata(folder / f"metadata.{form}", METADATA + more)
    write(place / "odd.tar#1" / "s.tar", tar_bytes([("in.parquet#2.jpg", jpeg(20))]))
    table(place / "x.parquet" / "part-0.parquet", image=pa.array(DATA[:1], pa.binary()))
    write(place / "x.parquet" / "_SUCCESS", b"")
    write(place / "torn" / "metadata.csv", b"\xff\xfe\0[")
    write(place / "torn" / "empty.parquet", b"")
    write(place / "torn" / "._t.parquet", b"\0\5\x16\7")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(SETTINGS, "endpoint_url", store.url)
    configure({})
    store.upload("layouts", place)
    url = "s3://layouts"
    for below in ("", "/files", "/files/00000", "/odd.tar#csv/in.parquet#1", "/x.parquet"):
        here, there = list_sources([f"{place}{below}"]), list_sources([f"{url}{below}"])
        assert sides(there) == sides(here)
        assert there.ignored_by == here.ignored_by
        assert len(there.warnings) == len(here.warnings)
        missing = [name for name in sides(here) if name.endswith("gone.jpg")]
        rows = [[row for row in one.table.to_pylist() if row["source_key"] not in missing] for one in (here, there)]
        read = [{r["source_key"]: read_bytes(r["uri"], r["offset"], r["size"]) for r in one} for one in rows]
        assert read[0] == read[1]
    whole = list_sources([url])
    assert sides(whole)["files/00000/late.jpg"] == {"n": 9}
    assert sides(whole)["odd.tar#csv/in.parquet#1/in/z.jpg"] == {"label": "dog", "n": 2.5}
    assert whole.ignored_by == {"other_files": 3, "duplicate_rows": 3, "null_rows": 3, "damaged_files": 3}
