"""Sources as people have them, a folder each, and what each must give: `make_case_sources(OUT)`."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.odd_sources import header_offset, jpeg, tar_bytes, write
from tests.support.paths import DATA

IMAGES = DATA / "cases" / "images"
# Candidates of each folder, and what is ignored by kind in all of them together.
CANDIDATES = {
    "images": 25,
    "tar_twice": 2,
    "tar_bad_header": 5,
    "tar_gbk": 2,
    "tar_upper": 2,
    "side_nan": 2,
    "side_big": 2,
    "parquet_nan": 3,
    "img2dataset_files": 4,
    "image_folder": 2,
    "parquet_folder": 4,
    "apple_double": 3,
    "named_pipe": 1,
    "parquet_many": 60,
}
IGNORED = {
    "other_files": 3,  # the table and the statistics of img2dataset, Spark's _SUCCESS
    "not_regular": 1,
    "duplicate_members": 1,
    "damaged_tails": 1,
    "damaged_files": 1,
}


def photo(number: int) -> bytes:
    return jpeg(number, 300, 260)


def make_case_sources(out: Path) -> None:
    shutil.copytree(IMAGES, out / "images")
    _make_tars(out)
    _make_tables(out)
    write(out / "named_pipe" / "a.jpg", photo(1))
    os.mkfifo(out / "named_pipe" / "p.jpg")


def _make_tars(out: Path) -> None:
    twice = [("x.jpg", photo(1)), ("x.json", b'{"n":1}'), ("x.jpg", photo(2)), ("x.json", b'{"n":2}')]
    write(out / "tar_twice" / "s.tar", tar_bytes([*twice, ("y.jpg", photo(3))]))
    raw = bytearray(tar_bytes([(f"a{n}.jpg", photo(n)) for n in range(6)], format=tarfile.USTAR_FORMAT))
    at = header_offset(bytes(raw), 3) + 148
    raw[at : at + 6] = b"000000"  # the checksum of the fourth header
    write(out / "tar_bad_header" / "s.tar", bytes(raw))
    chinese = [("\u7167\u7247/\u732b.jpg", photo(1)), ("ok.jpg", photo(2))]
    write(out / "tar_gbk" / "s.tar", tar_bytes(chinese, format=tarfile.GNU_FORMAT, encoding="gbk"))
    write(out / "tar_upper" / "SHARD.TAR", tar_bytes([("a.jpg", photo(1)), ("b.JPG", photo(2))]))
    for name, side in (
        ("side_nan", b'{"caption": "x", "similarity": NaN}'),
        ("side_big", b'{"hash": 18446744073709551615}'),
    ):
        other = [("001.jpg", photo(2)), ("001.json", b'{"similarity": 0.3}')]
        write(out / name / "s.tar", tar_bytes([("000.jpg", photo(1)), ("000.json", side), *other]))


def _make_tables(out: Path) -> None:
    write_table(out / "parquet_nan" / "0.parquet", jpg=photos(0, 3), similarity=[0.3, float("nan"), 0.5])
    keys = [f"{number:09d}" for number in range(5)]
    rows = {
        "url": [f"http://127.0.0.1:9/{key}.jpg" for key in keys],
        "key": keys,
        "caption": [f"caption {key}" for key in keys],
        "status": ["failed_to_download" if number == 3 else "success" for number in range(5)],
    }
    place = out / "img2dataset_files"
    write_table(place / "00000.parquet", **rows)
    write(place / "00000_stats.json", b'{"count": 5}')
    for number in (0, 1, 2, 4):
        write(place / "00000" / f"{keys[number]}.jpg", photo(number))
        about = json.dumps({name: column[number] for name, column in rows.items()})
        write(place / "00000" / f"{keys[number]}.json", about.encode())
    for number, name in enumerate("az"):
        write(out / "image_folder" / f"{name}.jpg", photo(number))
    write_table(out / "image_folder" / "metadata.parquet", file_name=["a.jpg", "z.jpg"], label=["cat", "dog"])
    for part in range(2):
        write_table(out / "parquet_folder" / "photos.parquet" / f"part-{part}.parquet", image=photos(2 * part, 2))
    write(out / "parquet_folder" / "photos.parquet" / "_SUCCESS", b"")
    write(out / "apple_double" / "a.jpg", photo(1))
    write(out / "apple_double" / "._0.parquet", b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    write_table(out / "apple_double" / "0.parquet", image=photos(0, 2))
    write_table(out / "parquet_many" / "t.parquet", 7, image=photos(0, 60), i=list(range(60)))


def photos(first: int, count: int) -> pa.Array:
    return pa.array([photo(first + number) for number in range(count)], pa.large_binary())


def write_table(path: Path, row_group_size: int | None = None, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
