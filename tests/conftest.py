"""Real photos (scikit-image's) and small run folders that tests share."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import chromium

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs deaf to Ctrl-C, and so would be the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))


@pytest.fixture(scope="session")
def photo_paths() -> list[Path]:
    from tests.support.photos import skimage_photos

    return skimage_photos()


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder: its photos, and one planted image for each reason."""
    from pipelines.demo.data import make_candidates

    return make_candidates(tmp_path_factory.mktemp("candidates") / "photos")


@pytest.fixture(scope="session")
def data_command():
    """Runs `lucidflux-data`: in this process, sparing a second of imports; with `cwd` or `env`, the installed one."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, *map(str, arguments)]
        if options:
            return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
        return _run_here(command)

    return call


def _run_here(command: list[str]) -> subprocess.CompletedProcess[str]:
    import cli
    from pipelines.execution.progress import take_warnings

    take_warnings()  # of what ran before in this process
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            cli.data_main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


class FaultyApp:
    """A WSGI application in front of another that answers some requests with 500, 503, or late.

    Which ones is a hash of the seed and the number of the request, so that a retry meets another fate. `share`: of the
    requests that fail; `slow_s`: how long one in ten of the failing ones waits instead. `refuse(method, path)` gives
    the code of a refusal (403, or 401), or None.
    """

    def __init__(self, app: object) -> None:
        self.app = app
        self.share, self.seed, self.slow_s = 0.0, 0, 0.0
        self.refuse: Callable[[str, str], str | None] = lambda method, path: None
        self.requests = self.failures = 0
        self._lock = threading.Lock()

    def __call__(self, environ: dict, start_response: object) -> object:
        with self._lock:
            self.requests += 1
            number = self.requests
        code = self.refuse(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if code is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode()
            status = "401 Unauthorized" if code == "401" else "403 Forbidden"
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
        draw = random.Random(f"{self.seed} {number}").random()
        if draw >= self.share:
            return self.app(environ, start_response)
        self.failures += 1
        if draw < self.share / 10:
            time.sleep(self.slow_s)
            return self.app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status = "503 Slow Down" if draw < self.share / 2 else "500 Internal Server Error"
        body = b"<Error><Code>InternalError</Code><Message>planted</Message></Error>"
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


class Store:
    """A real S3 endpoint on loopback (moto), with `faults` in front of it."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.faults = FaultyApp(DomainDispatcherApplication(create_backend_app))
        self._server = make_server("127.0.0.1", 0, self.faults, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def client(self) -> object:
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def upload(self, bucket: str, folder: Path) -> None:
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(Bucket=bucket, Key=str(path.relative_to(folder)), Body=path.read_bytes())

    def files(self, bucket: str, prefix: str) -> dict[str, bytes]:
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    opened = Store()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    """One tab of a real Chromium for all tests of a process."""
    pytest.importorskip("aiohttp")
    if chromium.find() is None:
        pytest.skip("Chromium is not installed")
    opened = chromium.Page(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()
