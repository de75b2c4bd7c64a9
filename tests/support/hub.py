"""A Hub on loopback that speaks the routes which `huggingface_hub` calls to publish a dataset, LFS uploads included.

An object is taken only where its bytes have the sha256 that its upload was announced with. A commit is refused that
names an object which was never sent. Nothing here is of the product.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".tar", ".parquet", ".safetensors")  # what the Hub's own .gitattributes keeps as large files
Answer = tuple[int, Any]


@dataclass
class Stored:
    """A file of a branch. `lfs`: whether its content is the object of its sha256."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_hash(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def listed(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.git_hash}
        return entry | ({"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}} if self.lfs else {})


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, dict[str, Stored]] = field(default_factory=lambda: {"main": {}})
    messages: list[str] = field(default_factory=list)  # of its commits


@dataclass
class Hub:
    """`token`: the one that it accepts; `repositories` by OWNER/NAME; `objects` by sha256; `puts`: how often each came;
    `refuse(method, path)`: the status of a refusal, or None."""

    token: str = "hf_test"
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    refuse: Callable[[str, str], int | None] = lambda method, path: None
    url: str = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> Answer:
        status = self.refuse(method, path)
        if status is not None:
            return status, {"error": "planted"}
        if method == "PUT" and path.startswith("/objects/"):
            return self._take(path.removeprefix("/objects/"), body)
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        for pattern, call in self._routes().items():
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                parts = [unquote(part) for part in match.groups()]
                return call(*parts, body)
        return 404, {"error": f"no route for {method} {path}"}

    def _routes(self) -> dict[str, Callable[..., Answer]]:
        name = r"/api/datasets/([\w.-]+/[\w.-]+)"
        return {
            "POST /api/repos/create": self._create,
            "POST /api/validate-yaml": lambda body: (200, {"warnings": [], "errors": []}),
            rf"POST {name}/branch/([^/]+)": self._branch,
            rf"GET {name}": lambda name, body: self._about(name, "main", body),
            rf"GET {name}/revision/([^/]+)": self._about,
            rf"GET {name}/tree/([^/]+)": self._tree,
            rf"POST {name}/preupload/([^/]+)": self._preupload,
            r"POST /datasets/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch": self._batch,
            rf"POST {name}/commit/([^/]+)": self._commit,
        }

    def _create(self, body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this dataset repo", "url": f"{self.url}/datasets/{name}"}
        self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return 200, {"url": f"{self.url}/datasets/{name}", "name": name}

    def _branch(self, name: str, branch: str, body: bytes) -> Answer:
        branches = self.repositories[name].branches
        if branch in branches:
            return 409, {"error": "Reference already exists"}
        branches[branch] = dict(branches["main"])
        return 200, {}

    def _about(self, name: str, branch: str, body: bytes) -> Answer:
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found"}
        return 200, {"id": name, "private": repository.private, "sha": "0" * 40}

    def _tree(self, name: str, branch: str, body: bytes) -> Answer:
        files = self.repositories[name].branches[branch]
        folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
        listed = [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
        return 200, listed + [file.listed(path) for path, file in sorted(files.items())]

    def _preupload(self, name: str, branch: str, body: bytes) -> Answer:
        there = self.repositories[name].branches[branch]
        files = []
        for asked in json.loads(body)["files"]:
            path, lfs = asked["path"], asked["path"].endswith(LARGE)
            known = {"oid": there[path].sha256 if lfs else there[path].git_hash} if path in there else {}
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **known})
        return 200, {"files": files}

    def _batch(self, name: str, body: bytes) -> Answer:
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.url}/objects/{asked['oid']}"}}}
            objects.append(asked | ({} if asked["oid"] in self.objects else upload))
        return 200, {"transfer": "basic", "objects": objects}

    def _take(self, oid: str, body: bytes) -> Answer:
        self.puts[oid] += 1
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "other bytes than announced"}
        self.objects[oid] = body
        return 200, {}

    def _commit(self, name: str, branch: str, body: bytes) -> Answer:
        repository = self.repositories[name]
        files = dict(repository.branches[branch])
        for line in map(json.loads, body.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "header":
                repository.messages.append(value["summary"])
            elif kind == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
            elif kind == "lfsFile":
                if value["oid"] not in self.objects:
                    return 422, {"error": f"{value['path']} was never sent"}
                files[value["path"]] = Stored(self.objects[value["oid"]], True)
            elif kind == "deletedFile":
                del files[value["path"]]
        repository.branches[branch] = files
        oid = hashlib.sha1(body).hexdigest()
        return 200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{oid}", "commitOid": oid}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def _serve(self) -> None:
            body = self._body()
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            status, content = hub.answer(self.command, path, body, self.headers.get("Authorization"))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = _serve

    return Handler


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
