"""Sources and sinks other than a local folder: S3 with faults, a failing web server, Parquet, img2dataset's output."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.images import ImageError
from lucidflux_data.sources import listing as sources
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import PASSING, read_bytes
from lucidflux_data.sources.uris import NOT_ALLOWED
from lucidflux_data.storage.folder import SETTINGS, configure

OPTIONS = ["--iqa", "niqe", "--top-fraction", "0.5", "--executor", "local", "--num-cpus", "2"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Small photos, some in a tar with json, one broken."""
    folder = tmp_path_factory.mktemp("photos")
    chosen = [
        path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left")
    ]
    encoded = {}
    for path in chosen:
        image = cv2.resize(cv2.imread(str(path)), (320, 240), interpolation=cv2.INTER_AREA)
        for quality in (80, 95):
            encoded[f"{path.stem}-{quality}.jpg"] = cv2.imencode(".jpg", image, [1, quality])[1].tobytes()
    for name, data in list(encoded.items())[:6]:
        (folder / name).write_bytes(data)
    (folder / "broken.jpg").write_bytes(b"not a photo")
    with tarfile.open(folder / "more.tar", "w") as tar:
        for name, data in list(encoded.items())[6:]:
            side = json.dumps({"license": "cc0", "name": name}).encode()
            for member, content in ((name, data), (name.removesuffix(".jpg") + ".json", side)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return folder


def tree(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if "events/" not in name}


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_a_local_one_whatever_the_store_answers(
    store, photos: Path, tmp_path: Path, data_command
) -> None:
    store.upload("photos", photos)
    environment = os.environ | store.environment
    local = data_command("filter", "s3://photos", "--out", tmp_path / "run", *OPTIONS, env=environment)
    assert local.returncode == 0, local.stderr
    store.client().create_bucket(Bucket="runs")
    store.faults.share, store.faults.slow_s = 0.15, 0.5
    try:
        remote = data_command("filter", "s3://photos", "--out", "s3://runs/one", *OPTIONS, env=environment)
    finally:
        store.faults.share = 0.0
    assert remote.returncode == 0, remote.stderr
    assert store.faults.failures > 10, "the faults were met"
    mine = {
        str(path.relative_to(tmp_path / "run")): path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    theirs = {name.removeprefix("one/"): data for name, data in store.files("runs", "one/").items()}
    assert tree(theirs) == tree(mine)
    ledger = pq.read_table(tmp_path / "run" / "selected.parquet").to_pylist()
    assert {row["reason"] for row in ledger} >= {"not_an_image"}
    assert len(ledger) == 11
    assert any(row["uri"].startswith("s3://photos/more.tar#") for row in ledger if row["keep"])
    checked = data_command("verify", "s3://runs/one", "--deep", env=environment)
    assert checked.returncode == 0, checked.stderr


class _BadServer(BaseHTTPRequestHandler):
    """/ok gives a photo, /gone 404, /down always 500, /flaky 500 once, /stall hangs, /short breaks off."""

    photo = b""
    seen: dict[str, int] = {}  # noqa: RUF012
    release = threading.Event()

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.strip("/").split(".")[0]
        self.seen[name] = self.seen.get(name, 0) + 1
        if name == "stall":
            self.release.wait(30)
        status = {"gone": 404, "down": 500}.get(name, 500 if name == "flaky" and self.seen[name] == 1 else 200)
        self.send_response(status)
        data = self.photo if status == 200 else b""
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if name == "short" else data)


@pytest.fixture
def web(photos: Path) -> Iterator[str]:
    _BadServer.photo = (photos / "astronaut-95.jpg").read_bytes()
    _BadServer.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _BadServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = dict(SETTINGS)
    url = f"http://127.0.0.1:{server.server_port}"
    configure({"timeout_s": 0.5, "sources": (url,), "own_servers": (f"127.0.0.1:{server.server_port}",)})
    yield url
    _BadServer.release.set()
    configure(before)
    server.shutdown()


def test_transient_failures_of_a_web_server_are_tried_again_and_permanent_ones_are_not(web: str) -> None:
    assert read_bytes(f"{web}/ok.jpg") == _BadServer.photo
    assert read_bytes(f"{web}/flaky.jpg") == _BadServer.photo
    for name, reason, detail, requests in (
        ("gone", "missing", None, 1),
        ("down", "unreadable", PASSING, 3),
        ("stall", "unreadable", PASSING, 3),
        ("short", "unreadable", PASSING, 3),
    ):
        with pytest.raises(ImageError) as caught:
            read_bytes(f"{web}/{name}.jpg")
        assert caught.value.reason == reason, name
        assert detail is None or caught.value.detail == detail, name
        assert _BadServer.seen[name] == requests, name


def test_parquet_with_bytes_or_uris_and_columns(photos: Path, tmp_path: Path) -> None:
    images = [path.read_bytes() for path in sorted(photos.glob("*-*.jpg"))]
    columns = {"license": ["cc0", "arr", None] * 2, "aesthetic": [float(i) for i in range(6)]}
    table = pa.table({"jpg": images, "key": [f"{i:05d}" for i in range(6)], **columns})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=4)
    nested = pa.array([{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(images)])
    pq.write_table(pa.table({"image": nested, "text": ["a"] * 6}), tmp_path / "hf.parquet")
    uris = pa.table({"url": [str(photos / "rocket-80.jpg"), "beside.jpg", None], "score": [1, 2, 3]})
    pq.write_table(uris, tmp_path / "uris.parquet")
    (tmp_path / "beside.jpg").write_bytes(images[0])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    listing = list_sources([str(tmp_path)])
    rows = {row["uri"]: row for row in listing.table.to_pylist()}
    assert rows[f"file://{photos}/rocket-80.jpg"]["offset"] == NOT_ALLOWED
    assert listing.ignored_by == {"other_files": 1, "duplicate_rows": 1, "null_rows": 1}
    assert listing.ignored == 3
    assert len(rows) == 6 + 6 + 2
    for i in (5, 0, 3, 4):  # also backwards
        assert read_bytes(f"file://{tmp_path}/bytes.parquet#{i}") == images[i]
        assert read_bytes(f"file://{tmp_path}/hf.parquet#{i}") == images[i]
    assert json.loads(rows[f"file://{tmp_path}/bytes.parquet#1"]["side"]) == {
        "aesthetic": 1.0,
        "key": "00001",
        "license": "arr",
    }
    assert json.loads(rows[f"file://{tmp_path}/beside.jpg"]["side"] or "{}") in ({"score": 2}, {})
    assert json.loads(rows[f"file://{photos}/rocket-80.jpg"]["side"]) == {"score": 1}


def test_img2dataset_output_with_its_columns(photos: Path, tmp_path: Path) -> None:
    """NNNNN.tar, NNNNN.parquet (one row for each url, failed ones too), NNNNN_stats.json."""
    paths = sorted(photos.glob("*-*.jpg"))[:3]
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for number, path in enumerate(paths):
            tar.add(path, arcname=f"{number:09d}.jpg")
    rows = {
        "url": [f"http://host/{i}" for i in range(4)],
        "key": [f"{i:09d}" for i in range(4)],
        "status": ["success"] * 3 + ["failed_to_download"],
        "caption": ["a", "b", "c", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    listing = list_sources([str(tmp_path)])
    assert listing.table.num_rows == 3
    assert [json.loads(row["side"])["caption"] for row in listing.table.to_pylist()] == ["a", "b", "c"]
    assert listing.ignored == 2


def test_a_tar_that_breaks_off_gives_what_stands_before_the_break(photos: Path, tmp_path: Path) -> None:
    data = (photos / "more.tar").read_bytes()
    with tarfile.open(photos / "more.tar") as tar:
        last = [member for member in tar if member.name.endswith(".jpg")][-1]
    (tmp_path / "cut.tar").write_bytes(data[: last.offset_data + last.size // 2])
    listing = list_sources([str(tmp_path / "cut.tar")])
    assert listing.damaged_tars == [f"file://{tmp_path}/cut.tar"]
    rows = listing.table.to_pylist()
    whole, broken = rows[:-1], [row for row in rows if row["source_key"] == last.name]
    assert len(whole) >= 2
    for row in rows:
        if row not in broken:
            assert read_bytes(row["uri"], row["offset"], row["size"]).startswith(b"\xff\xd8")
    for row in broken:
        with pytest.raises(ImageError, match="truncated"):
            read_bytes(row["uri"], row["offset"], row["size"])


def test_a_damaged_parquet_source_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(sources.InputError, match="damaged, or no Parquet file"):
        list_sources([str(tmp_path)])
