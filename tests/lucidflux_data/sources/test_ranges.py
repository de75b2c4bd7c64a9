"""Members of a tar that became shorter or longer between its listing and the first reading, here, in S3 and on servers
with and without ranges; and what was cut when it was listed."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.sources import ranges
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.ranges import fetch_range
from lucidflux_data.sources.reading import read_bytes, read_known
from lucidflux_data.storage import folder as storage
from lucidflux_data.storage.folder import SETTINGS, configure
from tests.support.odd_sources import header_offset, jpeg, tar_bytes

TAR = tar_bytes([(f"{n}.jpg", jpeg(n)) for n in range(4)])
INSIDE = header_offset(TAR, 2) + 512 + 100  # of the third member
LISTED = {f"{n}.jpg": jpeg(n) for n in range(4)}
Put = Callable[[bytes], str]  # puts the content of the tar; its url


class WithRanges(BaseHTTPRequestHandler):
    """As nginx: 206 for a part, 416 past the end. `content`: of the one file."""

    content = b""

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        data, asked = type(self).content, self.headers.get("Range")
        if not self.path.endswith(".tar"):
            self.send_error(404)
            return
        first, last = 0, len(data) - 1
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(last, int(end or last))
        status = 416 if first > last else 206 if asked else 200
        part = data[first : last + 1] if status != 416 else b""
        self.send_response(status)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)


class Plain(SimpleHTTPRequestHandler):
    """Python's own server: it takes no ranges, and sends everything."""

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving(handler: Callable) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/s.tar"
        finally:
            server.shutdown()


@pytest.fixture(params=["here", "s3", "ranges", "plain"])
def put(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    before = dict(SETTINGS)
    monkeypatch.setattr(storage, "WAIT_S", 0.0)

    def here(data: bytes) -> str:
        (tmp_path / "s.tar").write_bytes(data)
        return str(tmp_path / "s.tar")

    if request.param == "here":
        yield here
    elif request.param == "s3":
        store = request.getfixturevalue("store")
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        configure({"endpoint_url": store.url})
        bucket = f"ranges{len(store.client().list_buckets()['Buckets'])}"
        store.client().create_bucket(Bucket=bucket)

        def there(data: bytes) -> str:
            store.client().put_object(Bucket=bucket, Key="s.tar", Body=data)
            return f"s3://{bucket}/s.tar"

        yield there
    else:
        kind = type("OfThis", (WithRanges,), {})
        handler = kind if request.param == "ranges" else functools.partial(Plain, directory=str(tmp_path))
        with serving(handler) as url:

            def served(data: bytes) -> str:
                kind.content = data
                here(data)
                return url

            yield served
    SETTINGS.update(before)
    configure({})


def outcomes(rows: list[dict]) -> dict[str, object]:
    found: dict[str, object] = {}
    for row in rows:
        try:
            found[row["source_key"]] = read_bytes(row["uri"], row["offset"], row["size"])
        except ImageError as error:
            found[row["source_key"]] = error.reason
    return found


def test_what_became_shorter_has_changed_and_what_was_cut_is_truncated(put: Put) -> None:
    rows = list_sources([put(TAR)]).table.to_pylist()
    assert outcomes(rows) == LISTED
    put(TAR[:INSIDE])
    assert outcomes(rows) == LISTED | {"2.jpg": "changed", "3.jpg": "changed"}
    for row in rows[2:]:  # 3.jpg lies behind the end: a store answers 416
        with pytest.raises(ImageError, match="changed"):
            read_known(row["uri"], row["offset"], row["size"], sha256="0" * 64)
    cut = list_sources([put(TAR[:INSIDE])])
    assert len(cut.damaged_tars) == 1
    rows = cut.table.to_pylist()
    assert outcomes(rows) == {name: LISTED[name] for name in ("0.jpg", "1.jpg")} | {"2.jpg": "truncated"}
    put(TAR)  # as where a copy was still under way
    assert outcomes(rows) == {name: LISTED[name] for name in ("0.jpg", "1.jpg")} | {"2.jpg": "changed"}
    put(TAR[: INSIDE - 40])
    assert outcomes(rows)["2.jpg"] == "changed"
    put(tar_bytes([(f"{n}.jpg", jpeg(n, 200, 160)) for n in range(4)]))
    assert set(outcomes(rows).values()) == {"changed"}


def test_parts_of_an_object(put: Put) -> None:
    url = put(TAR)
    if "://" not in url:
        return
    storage.trust_sources([url])
    places = ((0, 1), (700, 1900), (len(TAR) - 5, len(TAR) + 9), (len(TAR), len(TAR) + 1), (10**12, 10**12 + 9))
    for start, end in places:
        assert fetch_range(url, start, end) == TAR[start:end]


def test_an_object_that_is_another_one_now_is_read_as_it_is(store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file here: nobody had read it before."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    before = dict(SETTINGS)
    configure({"endpoint_url": store.url})
    store.client().create_bucket(Bucket="shorter")
    store.client().put_object(Bucket="shorter", Key="a.jpg", Body=jpeg(1, 200, 160))
    (row,) = list_sources(["s3://shorter"]).table.to_pylist()
    store.client().put_object(Bucket="shorter", Key="a.jpg", Body=jpeg(2))
    assert read_bytes(row["uri"], row["offset"], row["size"]) == jpeg(2)
    SETTINGS.update(before)
    configure({})


@pytest.mark.parametrize("code", [401, 403, 404])
def test_tars_and_tables_that_a_page_names_and_nobody_gets(code: int, tmp_path: Path) -> None:
    class Refusing(Plain):
        def do_GET(self) -> None:
            if self.path.endswith(("b.tar", ".parquet")):
                self.send_error(code)
            else:
                super().do_GET()

        do_HEAD = do_GET

    before = dict(SETTINGS)
    for name in ("s.tar", "b.tar", "t.parquet"):
        (tmp_path / name).write_bytes(TAR)
    with serving(functools.partial(Refusing, directory=str(tmp_path))) as url:
        top = url.rpartition("/")[0]
        listing = list_sources([top])
        assert outcomes([row | {"source_key": row["source_key"][-5:]} for row in listing.table.to_pylist()]) == LISTED
        why = "is not there" if code == 404 else "may not be read"
        assert listing.warnings == [f"{top}/b.tar {why}", f"{top}/t.parquet {why}"]
        assert listing.ignored_by == {"damaged_files": 2}
        for name in ("b.tar", "t.parquet"):
            with pytest.raises(InputError, match=why):
                list_sources([f"{top}/{name}"])
    SETTINGS.update(before)
    configure({})


def test_a_table_on_a_server_without_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(SETTINGS)
    monkeypatch.setattr(ranges, "IN_MEMORY", 1 << 20)  # so that it lies on the disk
    images = [jpeg(n) + bytes(6_000_000) for n in range(3)]
    pq.write_table(pa.table({"image": pa.array(images, pa.binary())}), tmp_path / "t.parquet", compression="none")
    (tmp_path / "large.tar").write_bytes(tar_bytes([(f"{n}.jpg", data) for n, data in enumerate(images)]))
    (tmp_path / "empty.tar").write_bytes(b"")
    with serving(functools.partial(Plain, directory=str(tmp_path))) as url:
        listing = list_sources([url.rpartition("/")[0]])
        assert [told.rpartition("/")[2].split()[0] for told in listing.all_warnings()] == ["empty.tar"]
        assert list(outcomes(listing.table.to_pylist()).values()) == images * 2
    SETTINGS.update(before)
    configure({})


def test_a_server_that_sends_for_ever_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/s.tar" else 404)
            self.end_headers()
            with contextlib.suppress(OSError):
                while self.path == "/s.tar":
                    self.wfile.write(bytes(1 << 16))

        do_HEAD = do_GET

    before = dict(SETTINGS)
    monkeypatch.setattr(ranges, "MOST_WHOLE", 8 << 20)
    with serving(Endless) as url, pytest.raises(InputError, match="too large to be fetched whole"):
        list_sources([url])
    SETTINGS.update(before)
    configure({})
