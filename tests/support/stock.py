"""Tars of pairs as anyone may write them, and a web server that gives ranges and etags and can be away."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np

SIDE, SCALE = 96, 4


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def picture(seed: int, side: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Noise: no two seeds give images that are alike, and every PNG of a size has nearly the same bytes."""
    return np.random.default_rng(seed).integers(0, 256, (*side, 3), np.uint8)


def pair(seed: int, lq: tuple[int, int] = (SIDE // SCALE, SIDE // SCALE)) -> dict[str, bytes]:
    return {"hq.png": png(picture(seed)), "lq.png": png(picture(seed + 100_000, lq))}


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]], side: Any = None) -> Path:
    """`side`: the json beside each pair."""
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            found = {**members, **({"json": json.dumps(side).encode()} if side is not None else {})}
            for extension, data in sorted(found.items()):
                about = tarfile.TarInfo(f"{key}.{extension}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    return path


def make_tar(path: Path, count: int = 8, first: int = 0, prefix: str = "img") -> Path:
    return write_tar(path, {f"{prefix}{i:04d}": pair(first + i) for i in range(count)})


class Store(BaseHTTPRequestHandler):
    """Serves `folder`. `away`: every request of a path in it gets a 503, of "*" all; `failing`: so many requests of
    each path fail first; `asked`: how many came."""

    folder: Path
    away: set[str] = set()  # noqa: RUF012
    failing: dict[str, int] = {}  # noqa: RUF012
    etags = True
    asked = 0

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        kind, path = type(self), unquote(self.path)
        kind.asked += 1
        if {path, "*"} & kind.away or kind.failing.get(path, 0) > 0:
            kind.failing[path] = kind.failing.get(path, 0) - 1
            self.send_error(503)
            return
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        start, end = 0, len(data) - 1
        asked = self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(end, int(last or end))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        if kind.etags:
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        if body:
            self.wfile.write(data[start : end + 1])


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, type[Store]]]:
    """(url, its handler) of a server on this machine."""
    kind = type("StoreOfThis", (Store,), {"folder": folder, "away": set(), "failing": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kind
        finally:
            server.shutdown()
