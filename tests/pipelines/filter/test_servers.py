"""Servers as sources: the pages of a web server, Google's storage, a store that was down, settings from a file."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import ConfigError, InputError, StorageError
from lucidflux_data.selection import records
from lucidflux_data.selection.config import make_config
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import PASSING, read_bytes
from lucidflux_data.storage import folder as storage
from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from lucidflux_data.storage.formats import table_bytes
from pipelines.filter import job
from pipelines.filter.repair import retry
from tests.support.here import QUIET, Here, run_filter, verified

LOCAL = ["--executor", "local", "--num-cpus", "1"]
WIDE = ["iqa.metric=none", "rules.min_laplacian_variance=1", "rules.max_flat_fraction=1"]


@pytest.fixture(autouse=True)
def _settings_are_given_back() -> Iterator[None]:
    before = dict(SETTINGS)
    yield
    SETTINGS.update(before)
    configure({})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """www/photos with a folder in it and a name with a space; www/secret.jpg lies above."""
    www = tmp_path_factory.mktemp("www")
    (www / "photos" / "more").mkdir(parents=True)
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "coffee")))
    for number, name in enumerate(("photos/a.jpg", "photos/b c.jpg", "photos/more/d.jpg", "secret.jpg")):
        (www / name).write_bytes(cv2.imencode(".jpg", image[30 * number :][:200, :260])[1].tobytes())
    (www / "photos" / "notes.txt").write_text("no image")
    return www / "photos"


class _Pages(SimpleHTTPRequestHandler):
    """Python's own pages of links. `down`: names that get a 503."""

    down: set[str] = set()  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        return

    def list_directory(self, path: str):
        """As Apache does it: links that sort the page, and one to the folder above."""
        page = super().list_directory(path)
        extra = b'<a href="?C=N;O=D">Name</a> <a href="../">Parent</a> <a href="/">Root</a>'
        content = page.read().replace(b"<ul>", extra + b"<ul>")
        page.seek(0)
        page.truncate()
        page.write(content)
        page.seek(0)
        return page

    def end_headers(self) -> None:
        self.protocol_version = "HTTP/1.0"
        super().end_headers()

    def send_header(self, keyword: str, value: str) -> None:
        if not (keyword == "Content-Length" and self.path.endswith("/")):
            super().send_header(keyword, value)

    def do_GET(self) -> None:
        if self.path.rsplit("/", 1)[-1] in self.down:
            self.send_error(503)
            return
        super().do_GET()


@pytest.fixture
def web(photos: Path) -> Iterator[str]:
    _Pages.down = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(photos.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_folder_of_a_web_server_is_a_source(web: str, photos: Path, tmp_path: Path) -> None:
    listing = list_sources([f"{web}/photos"])
    rows = {row["source_key"]: row for row in listing.table.to_pylist()}
    assert set(rows) == {"a.jpg", "b c.jpg", "more/d.jpg"}, "nothing from above it"
    assert listing.ignored == 1
    for name, row in rows.items():
        assert read_bytes(row["uri"]) == (photos / name).read_bytes()
    assert list_sources([f"{web}/photos/a.jpg"]).table["source_key"].to_pylist() == ["a.jpg"]
    for gone in ("nowhere", "nowhere.jpg"):
        with pytest.raises(InputError, match="is not there"):
            list_sources([f"{web}/{gone}"])
    run_filter(f"{web}/photos", tmp_path / "run", *WIDE)
    kept = [row for row in pq.read_table(tmp_path / "run" / "selected.parquet").to_pylist() if row["keep"]]
    assert {row["sha256"] for row in kept} == {
        hashlib.sha256((photos / name).read_bytes()).hexdigest() for name in rows
    }


def test_retry_after_an_outage_gives_what_a_quiet_run_gives(web: str, tmp_path: Path) -> None:
    uris = [f"{web}/photos/a.jpg", f"{web}/photos/b%20c.jpg", f"{web}/photos/more/d.jpg"]
    pq.write_table(pa.table({"url": uris}), tmp_path / "list.parquet")
    settings = [*WIDE, "storage.attempts=1", f"storage.allow_uris={web}"]
    quiet, run = tmp_path / "quiet", tmp_path / "run"
    run_filter(tmp_path / "list.parquet", quiet, *settings)
    _Pages.down = {"a.jpg", "d.jpg"}
    run_filter(tmp_path / "list.parquet", run, *settings)
    rows = {row["uri"]: row for row in pq.read_table(run / "selected.parquet").to_pylist()}
    assert {uri for uri, row in rows.items() if row["reason"] == "unreadable"} == {uris[0], uris[2]}
    details = pq.read_table(run / "scores" / "basic" / "unit-000000.parquet")["detail"].to_pylist()
    assert details.count(PASSING) == 2
    for down, told in (({"d.jpg"}, (2, 1)), (set(), (1, 1))):
        _Pages.down = down
        found = retry(Folder(run), [], Here(), QUIET)
        assert (found["tried"], found["recovered"]) == told
    config = make_config(settings=settings)
    job.select(Folder(run), config, Here(), QUIET)
    job.pack(Folder(run), config, Here(), QUIET)
    assert tree(run) == tree(quiet)


def tree(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_storage_table_of_a_config_file_says_where_the_store_is(
    store, photos: Path, tmp_path: Path, data_command
) -> None:
    """No AWS_ENDPOINT_URL anywhere: driver, workers, and the later `retry` have it from the file and from the run."""
    store.upload("toml", photos)
    environment = {k: v for k, v in (os.environ | store.environment).items() if k != "AWS_ENDPOINT_URL"}
    text = f'[storage]\nendpoint_url = "{store.url}"\ntimeout_s = 20\nattempts = 2\n[rules]\nmax_flat_fraction = 1\n'
    (tmp_path / "job.toml").write_text(text)
    run = tmp_path / "run"
    options = ["--config", tmp_path / "job.toml", "--iqa", "none", *LOCAL]
    done = data_command("filter", "s3://toml", "--out", run, *options, env=environment)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in pq.read_table(run / "scores" / "basic").to_pylist()} == {"ok"}
    folder = Folder(run)
    scores = folder.read_table("scores/basic/unit-000000.parquet").to_pylist()
    scores[0] |= {"status": "failed", "reason": "missing", "detail": "planted"}
    folder.publish("scores/basic/unit-000000.parquet", table_bytes(pa.Table.from_pylist(scores, records.BASIC)))
    done = data_command("retry", run, "--status", "missing", "--json", *LOCAL, env=environment)
    assert json.loads(done.stdout)["recovered"] == 1, done.stderr
    (tmp_path / "job.toml").write_text("[storage]\nendpoint = 'http://x'\n")
    wrong = data_command("filter", "s3://toml", "--out", tmp_path / "other", *options, env=environment)
    assert wrong.returncode == 2
    assert "there is no setting storage.endpoint" in wrong.stderr


def test_a_store_that_refuses_is_a_sentence(store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s3fs = pytest.importorskip("s3fs")

    def speak(url: str, environment: dict[str, str]) -> None:
        for name in store.environment:
            monkeypatch.delenv(name, raising=False)
        for name, value in (environment | {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        storage._opened.cache_clear()
        configure({"endpoint_url": url, "attempts": 1})

    speak(store.url, store.environment)
    for source in ("s3://no-such-bucket", "s3://no-such-bucket/folder"):
        with pytest.raises(InputError, match="is not there"):
            list_sources([source])
    for content in (b"whole", iter([b"in ", b"parts"])):
        with pytest.raises(ConfigError, match="s3://no-such-bucket/run cannot be written to"):
            Folder("s3://no-such-bucket/run").publish("run.json", content)
    speak(store.url, {})
    with pytest.raises(InputError, match="no credentials were found"):
        list_sources(["s3://no-such-bucket"])
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    speak("http://127.0.0.1:9", store.environment | {"AWS_MAX_ATTEMPTS": "1"})
    with pytest.raises(StorageError, match="did not answer"):
        list_sources(["s3://no-such-bucket"])
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that speaks Google's storage API, on loopback."""
    server_of = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of.create_server("127.0.0.1", port, in_memory=True, default_bucket="photos")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for the kind of a bucket by gRPC, in vain
    configure({"anonymous": True})
    storage._opened.cache_clear()
    yield "gs://photos"
    storage._opened.cache_clear()
    server.stop()


def test_google_storage_is_a_source_and_a_sink(google: str, photos: Path) -> None:
    folder = Folder(google)
    assert folder.fs.requests_timeout == SETTINGS["timeout_s"]
    for path in sorted(path for path in photos.rglob("*") if path.is_file()):
        folder.publish(f"in/{path.relative_to(photos)}", path.read_bytes())
    folder.publish("in/parts.bin", iter([b"ab" * 200_000, b"c"]))
    assert folder.read("in/parts.bin") == b"ab" * 200_000 + b"c"
    rows = list_sources([f"{google}/in"]).table.to_pylist()
    assert [row["source_key"] for row in rows] == ["a.jpg", "b c.jpg", "more/d.jpg"]
    assert read_bytes(rows[2]["uri"]) == (photos / "more" / "d.jpg").read_bytes()
    run_filter(f"{google}/in", f"{google}/run", *WIDE, "storage.anonymous=true")
    assert verified(f"{google}/run") == 3
