"""Weights are fetched from a server of this machine: resumed where it breaks off, refused where the bytes differ."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.iqa import clipiqa, fetch
from lucidflux_data.iqa.pins import CLIP_RN50, TRUSTED

DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Gives DATA; `limit`: bytes after which it breaks off; `ranges`: whether it gives a part; `asked`: the ranges."""

    limit: int | None = None
    ranges = True
    data = DATA

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(self.server.data):
            self.send_error(416)
            return
        rest = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as opened:
        thread = threading.Thread(target=opened.serve_forever, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def fetch_here(server: Server, path: Path, digests: frozenset[str] = frozenset({SHA256})) -> list[str]:
    said: list[str] = []
    fetch.fetch_file(f"{server.url}weights.pt", path, digests, said.append)
    return said


def test_what_broke_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "weights.pt"
    server.limit = 1_000_000
    for so_far in (1_000_000, 2_000_000):
        with pytest.raises(InputError, match=r"broke off at .* of 3,000,000 bytes; repeat the command to resume"):
            fetch_here(server, path)
        assert (path.parent / "weights.pt.part").read_bytes() == DATA[:so_far]
        assert not path.exists()
    fetch_here(server, path)
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]
    assert fetch_here(server, path) == [f"{path}: there already"]
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.pt"]
    assert len(server.asked) == 3


def test_a_server_that_gives_no_part_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    (tmp_path / "weights.pt.part").write_bytes(b"of something else")
    server.ranges = False
    fetch_here(server, path)
    assert path.read_bytes() == DATA


def test_a_part_that_is_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(DATA)
    fetch_here(server, tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").read_bytes() == DATA


def test_other_bytes_are_refused_and_go(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    server.data = DATA[:-1] + b"x"
    with pytest.raises(VerificationError, match="gave other bytes than the published ones"):
        fetch_here(server, path)
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"damaged")
    server.data = DATA
    fetch_here(server, path)
    assert path.read_bytes() == DATA, "a file that is not the published one is fetched again"


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9/w could not be fetched: .*repeat the command"):
        fetch.fetch_file("http://127.0.0.1:9/w", tmp_path / "w", frozenset(), print)


def test_the_command_brings_what_filter_asks_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`filter` names file, url, sha256 and the command; the command puts the file where `filter` finds it."""
    monkeypatch.delenv("LUCIDFLUX_WEIGHTS", raising=False)
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "CLIP_URL", server.url)
    trusted = tmp_path / "trusted.txt"
    trusted.write_text(f"{SHA256}  weights\n")
    monkeypatch.setenv(TRUSTED, str(trusted))
    with pytest.raises(ConfigError) as told:
        clipiqa.find_weights()
    for part in ("RN50.pt", f"{server.url}RN50.pt", CLIP_RN50, "`lucidflux weights download clipiqa`"):
        assert part in str(told.value)
    assert str(told.value).endswith("--iqa niqe and --iqa none need nothing")
    done = CliRunner().invoke(cli.app, ["weights", "download", "clipiqa", "--json"])
    assert done.exit_code == 0, done.output
    found = clipiqa.find_weights()
    assert found.read_bytes() == DATA
    assert json.loads(done.stdout)[str(found)] == SHA256


def test_what_is_to_be_fetched_is_named() -> None:
    for args, words in (
        ([], "name metrics"),
        (["clipiga"], "did you mean clipiqa"),
        (["clipiqa", "--only", "ae.safetensors"], "which go into --out"),
    ):
        done = CliRunner().invoke(cli.app, ["weights", "download", *args])
        assert isinstance(done.exception, ConfigError), args
        assert words in str(done.exception)
