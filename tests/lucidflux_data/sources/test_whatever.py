"""Whatever stands in a folder: each thing is a candidate or ignored by a kind, once, and nothing is read twice."""

from __future__ import annotations

import io
import json
import os
import posixpath
import shutil

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lucidflux_data.images import ImageError
from lucidflux_data.sources.counts import IGNORED
from lucidflux_data.sources.listing import Listing, list_sources
from lucidflux_data.sources.reading import read_bytes
from tests.support.odd_sources import tar_bytes

FOLDERS = st.sampled_from(["", "a/", "a/b/", "x.tar#1/", "y.parquet/", "00000/"])
PLAIN = st.sampled_from(["1.jpg", "2.JPG", "é.png", "in.tar#3.webp"])
OTHER = st.sampled_from(["notes.txt", "._1.jpg", "1.json", "_SUCCESS", "no extension"])
MEMBERS = st.lists(st.sampled_from(["m.jpg", "n.jpg", "d/m.jpg", "t.txt", "m.json", "._m.jpg"]), min_size=1, max_size=5)
REFERENCES = st.lists(
    st.sampled_from(["1.jpg", "./1.jpg", "2.JPG", "gone.jpg", "a/1.jpg", None, ""]), min_size=1, max_size=5
)
THINGS = st.one_of(
    st.tuples(st.just("image"), PLAIN, st.none()),
    st.tuples(st.just("other"), OTHER, st.none()),
    st.tuples(st.just("packed"), st.sampled_from(["s.tgz", "s.tar.gz"]), st.none()),
    st.tuples(st.just("damaged"), st.sampled_from(["e.parquet", "._e.parquet"]), st.none()),
    st.tuples(st.just("tar"), st.sampled_from(["s.tar", "T.TAR"]), st.tuples(MEMBERS, st.booleans())),
    st.tuples(st.just("rows"), st.sampled_from(["t.parquet", "U.PARQUET"]), st.integers(1, 4)),
    st.tuples(st.just("uris"), st.just("u.parquet"), REFERENCES),
    st.tuples(st.just("metadata"), st.sampled_from(["metadata.csv", "metadata.jsonl", "metadata.parquet"]), REFERENCES),
)


class Made:
    """Files by name, each with contents of its own, and how many things stand in them."""

    def __init__(self, things: dict[str, tuple[str, object]]) -> None:
        self.files: dict[str, bytes] = {}
        self.listed = 0
        self.number = 0
        self.things = things
        for name, (kind, how) in things.items():
            self.files[name] = getattr(self, f"_{kind}")(name, how)
        self.listed += self._in_metadata()

    def content(self) -> bytes:
        self.number += 1
        return f"image {self.number}".encode()

    def _image(self, name: str, how: None) -> bytes:
        self.listed += 1
        return self.content()

    _other = _packed = _image

    def _damaged(self, name: str, how: None) -> bytes:
        self.listed += 1
        return b"PAR1"

    def _tar(self, name: str, how: tuple[list[str], bool]) -> bytes:
        names, cut = how
        self.listed += sum(not member.endswith(".json") for member in names) + cut
        data = tar_bytes([(member, b"{}" if member.endswith("json") else self.content()) for member in names])
        last = 512 * (2 * len(names))  # each member has a header and one block
        return data[:last] if cut else data

    def _rows(self, name: str, how: int) -> bytes:
        self.listed += how
        return self._table(image=pa.array([self.content() for _ in range(how)], pa.binary()))

    def _uris(self, name: str, how: list[str | None]) -> bytes:
        self.listed += len(how)
        return self._table(url=pa.array(how, pa.string()), n=list(range(len(how))))

    def _metadata(self, name: str, how: list[str | None]) -> bytes:
        if name.endswith(".parquet"):
            return self._table(file_name=pa.array(how, pa.string()), n=list(range(len(how))))
        if name.endswith(".csv"):
            return "\n".join(["file_name,n", *(f"{entry or ''},{n}" for n, entry in enumerate(how)), ""]).encode()
        return "\n".join(json.dumps({"file_name": entry, "n": n}) for n, entry in enumerate(how)).encode()

    def _in_metadata(self) -> int:
        """Rows that are more than the columns of a file: null ones, later ones of one file, those of no file."""
        entries = [
            posixpath.normpath(posixpath.join(posixpath.dirname(name), entry)) if entry else None
            for name, (kind, how) in self.things.items()
            if kind == "metadata"
            for entry in how
        ]
        images = {name for name, (kind, _) in self.things.items() if kind == "image"}
        return len(entries) - len(set(entries) & images)

    @staticmethod
    def _table(**columns: object) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        return out.getvalue()


def check(listing: Listing, made: Made, pipes: int) -> dict[str, tuple[bytes, str | None]]:
    assert listing.table.num_rows + listing.ignored == made.listed + pipes
    assert listing.ignored == sum(listing.ignored_by.values())
    assert set(listing.ignored_by) <= set(IGNORED)
    rows = listing.table.to_pylist()
    assert len({row["uri"] for row in rows}) == len(rows)
    found: dict[str, tuple[bytes, str | None]] = {}
    for row in rows:
        try:
            data = read_bytes(row["uri"], row["offset"], row["size"])
        except ImageError as error:
            data = error.reason.encode()
        found[row["source_key"]] = data, row["side"]
    read = [data for data, _ in found.values() if data != b"missing"]
    assert len(set(read)) == len(read), "nothing is read twice"
    assert all(data.startswith(b"image ") for data in read)
    return found


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(FOLDERS, st.lists(THINGS, max_size=5), max_size=4), st.sets(st.sampled_from(["p.jpg", "p.tar"])))
def test_each_thing_in_a_folder_counts_once_here_and_in_a_store(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, list], pipes: set[str]
) -> None:
    things = {folder + name: (kind, how) for folder, found in tree.items() for kind, name, how in found}
    assume(any(kind == "image" for kind, _ in things.values()))
    made, root, store = Made(things), tmp_path_factory.mktemp("whatever"), fsspec.filesystem("memory")
    for name, data in made.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        store.pipe(f"/{root.name}/{name}", data)
    there = check(list_sources([f"memory:///{root.name}"]), made, 0)
    for name in pipes:
        os.mkfifo(root / name)
    here = check(list_sources([str(root)]), made, len(pipes))
    assert here == there
    shutil.rmtree(root)
    store.store.clear()
