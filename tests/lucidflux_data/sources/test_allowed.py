"""Uris in tables of strangers: what lies outside the source is not read, and no request reaches a private network."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import ImageError
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage import allowed
from lucidflux_data.storage.allowed import is_below, is_public
from lucidflux_data.storage.folder import SETTINGS, configure, trust_sources
from tests.support.here import run_filter


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (96, 96, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = dict(SETTINGS)
    configure(
        {"sources": (), "own_servers": (), "allow_uris": (), "paths_anywhere": False, "attempts": 1, "timeout_s": 5.0}
    )
    yield
    SETTINGS.update(before)
    configure({})


class _Server(HTTPServer):
    asked: list[str]


@pytest.fixture
def private() -> Iterator[_Server]:
    """A server on loopback, as that of cloud metadata is on a link-local address. It notes what it is asked for."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked.append(self.path)  # type: ignore[attr-defined]
            target = self.path.partition("?to=")[2]
            self.send_response(302 if target else 200)
            if target:
                self.send_header("Location", target)
            self.end_headers()
            self.wfile.write(b"" if target else jpeg(1))

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Pages)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def listed(source: Path) -> dict[str, dict]:
    return {row["source_key"]: row for row in list_sources([str(source)]).table.to_pylist()}


def read(row: dict) -> bytes:
    return read_bytes(row["uri"], row["offset"], row["size"])


def reason_of(row: dict) -> str:
    with pytest.raises(ImageError) as caught:
        read(row)
    return caught.value.reason


def refused(row: dict) -> bool:
    return reason_of(row) == "not_allowed"


OUTSIDE = [
    "{out}/secret.jpg",
    "file://{out}/secret.jpg",
    "FILE://{out}/secret.jpg",
    "local://{out}/secret.jpg",
    "../out/secret.jpg",
    "sub/../../out/secret.jpg",
    "file://{source}/../out/secret.jpg",
    "file://{source}/\\x2e\\x2e/out/secret.jpg",
    "\\x2e\\x2e/out/secret.jpg",
    "link/secret.jpg",
    "file://{source}/deep/../secret.jpg",
    "file://~/secret.jpg",
    "{source}2/secret.jpg",
    "simplecache::file://{out}/secret.jpg",
    "http://169.254.169.254/latest/x.jpg",
    "s3://bucket/x.jpg",
    "nosuch://x/y.jpg",
]


def tables(source: Path, uri: str) -> None:
    """The uri in each kind of table that names images, beside enough good ones."""
    pq.write_table(pa.table({"url": [uri]}), source / "u.parquet")
    (source / "meta").mkdir()
    (source / "meta" / "metadata.jsonl").write_text(json.dumps({"file_name": uri, "label": 1}) + "\n")
    (source / "csv").mkdir()
    pq.write_table(pa.table({"file_name": [uri]}), source / "csv" / "metadata.parquet")


@pytest.mark.parametrize("uri", OUTSIDE)
def test_a_table_does_not_lead_outside_its_source(tmp_path: Path, uri: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out, tmp_path / "source2"):
        folder.mkdir()
        (folder / "secret.jpg").write_bytes(jpeg(2))
    for seed in range(4):
        (source / f"good-{seed}.jpg").write_bytes(jpeg(10 + seed))
    (source / "link").symlink_to(out)
    (out / "deep").mkdir()
    (source / "deep").symlink_to(out / "deep")  # `deep/..` is `out`
    uri = uri.format(out=out, source=source)
    tables(source, uri)
    rows = listed(source)
    named = [row for key, row in rows.items() if "#" in key]
    reasons = [reason_of(row) for row in named]
    assert set(reasons) <= {"not_allowed", "missing"}, "missing: seen from its own folder it lies inside"
    assert ("not_allowed" in reasons) != uri.startswith("\\x2e"), "which is a name, as a path that somebody wrote"
    contents = [read(row) for row in rows.values() if row not in named]
    assert len(contents) == 5, "the others are read"


def test_a_row_of_a_parquet_file_behind_a_link_is_outside(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"image": [jpeg(1)]}), tmp_path / "secret.parquet")
    (tmp_path / "source" / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    (tmp_path / "source" / "in.jpg").write_bytes(jpeg(2))
    pq.write_table(pa.table({"url": ["link.parquet#0", "in.jpg"]}), tmp_path / "source" / "t.parquet")
    rows = {
        row["uri"].rpartition("/")[2]: row
        for row in list_sources([str(tmp_path / "source" / "t.parquet")]).table.to_pylist()
    }
    assert refused(rows["link.parquet#0"])
    assert read(rows["in.jpg"]) == jpeg(2)


def test_a_path_in_a_row_does_not_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    (tmp_path / "source" / "in.jpg").write_bytes(jpeg(2))
    paths = ["../secret.jpg", str(tmp_path / "secret.jpg"), "http://127.0.0.1:9/x.jpg", "in.jpg"]
    image = pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": image}), tmp_path / "source" / "t.parquet")
    rows = list_sources([str(tmp_path / "source" / "t.parquet")]).table.to_pylist()
    assert [refused(row) for row in rows[:3]] == [True] * 3
    assert read(rows[3]) == jpeg(2)
    configure({"allow_uris": (str(tmp_path),)})
    assert read(rows[0]) == read(rows[1]) == jpeg(1)


def test_most_rows_elsewhere_end_the_command_with_the_line_to_copy(tmp_path: Path, data_command) -> None:
    (tmp_path / "far").mkdir()
    for seed in range(3):
        (tmp_path / "far" / f"{seed}.jpg").write_bytes(jpeg(seed))
    (tmp_path / "near").mkdir()
    uris = [str(tmp_path / "far" / f"{seed}.jpg") for seed in range(3)]
    pq.write_table(pa.table({"url": uris}), tmp_path / "near" / "t.parquet")
    asked = (
        "filter",
        tmp_path / "near" / "t.parquet",
        "--out",
        tmp_path / "run",
        "--executor",
        "local",
        "--iqa",
        "none",
    )
    done = data_command(*asked)
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
    line = f"--allow-uris file://{tmp_path}/far"
    assert line in done.stderr
    done = data_command(*asked, *line.split(), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {}
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["listed"]["allowed"] == [f"file://{tmp_path}/near/t.parquet", f"file://{tmp_path}/far"]
    assert "allow" not in run["label"]


def test_a_refused_row_is_one_named_failure_and_the_digest_is_that_of_before(tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    for seed in range(3):
        (tmp_path / "near" / f"{seed}.jpg").write_bytes(jpeg(seed))
    (tmp_path / "far.jpg").write_bytes(jpeg(9))
    pq.write_table(pa.table({"url": [str(tmp_path / "far.jpg")]}), tmp_path / "near" / "t.parquet")
    rules = ["rules.max_laplacian_variance=999999", "iqa.metric=none"]
    run_filter(tmp_path / "near", tmp_path / "run", *rules)
    rows = pq.read_table(tmp_path / "run" / "selected.parquet").to_pylist()
    assert [row["uri"] for row in rows if row["reason"] == "not_allowed"] == [f"file://{tmp_path}/far.jpg"]
    run_filter(tmp_path / "near", tmp_path / "other", *rules, f"storage.allow_uris={tmp_path}")
    one, two = (json.loads((tmp_path / name / "run.json").read_text())["digests"] for name in ("run", "other"))
    assert one == two


def test_a_row_that_two_sources_name_is_read_where_one_may(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "x.jpg").write_bytes(jpeg(1))
    pq.write_table(pa.table({"url": [str(tmp_path / "b" / "x.jpg")]}), tmp_path / "a" / "t.parquet")
    (tmp_path / "a" / "y.jpg").write_bytes(jpeg(2))
    rows = list_sources([str(tmp_path / "a"), str(tmp_path / "b")]).table.to_pylist()
    assert sorted(row["offset"] for row in rows) == [-1, -1]


@pytest.mark.parametrize("way", ["literal", "name", "redirect", "redirect to a name"])
def test_no_request_of_a_table_reaches_a_private_network(
    way: str, tmp_path: Path, private: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = private.server_port
    inner = f"http://127.0.0.1:{port}/secret.jpg"
    public = {"first.example": "127.0.0.1"} if way.startswith("redirect") else {}
    answers = socket.getaddrinfo

    def resolve(host: str, *more: object, **options: object) -> object:
        named = host.decode() if isinstance(host, bytes) else host
        return answers("127.0.0.1" if named.endswith(".example") else named, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    if public:  # the first hop counts as public, the second is looked at
        real, hops = allowed.is_public, []
        monkeypatch.setattr(allowed, "is_public", lambda address: (not hops and not hops.append(1)) or real(address))
    uri = {
        "literal": inner,
        "name": f"http://inner.example:{port}/secret.jpg",
        "redirect": f"http://first.example:{port}/go.jpg?to={inner}",
        "redirect to a name": f"http://first.example:{port}/go.jpg?to=http://inner.example:{port}/secret.jpg",
    }[way]
    configure({"allow_uris": (f"http://first.example:{port}", f"http://inner.example:{port}", "http://")})
    pq.write_table(pa.table({"url": [uri]}), tmp_path / "t.parquet")
    (row,) = list_sources([str(tmp_path / "t.parquet")]).table.to_pylist()
    assert row["offset"] == -1
    assert refused(row)
    assert not [path for path in private.asked if "secret" in path.partition("?")[0]]
    assert len(private.asked) == (1 if public else 0)


@pytest.fixture
def inner(private: _Server) -> Iterator[_Server]:
    """Another server at the port of `private`, by 127.0.0.2."""
    server = _Server(("127.0.0.2", private.server_port), private.RequestHandlerClass)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def answer(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    """What a name server says from now on."""
    answers = socket.getaddrinfo

    def resolve(host: str, *more: object, **options: object) -> object:
        named = host.decode() if isinstance(host, bytes) else host
        return answers(names.get(named, named), *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("inside", [False, True])
def test_a_public_server_that_the_user_named_does_not_lead_inside(
    inside: bool, private: _Server, inner: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a redirect. A server of one's own network does: its redirects are the user's."""
    port = private.server_port
    monkeypatch.setattr(allowed, "is_public", lambda address: not inside and address == "127.0.0.1")
    answer(monkeypatch, {"named.example": "127.0.0.1", "inner.example": "127.0.0.2"})
    (row,) = list_sources([f"http://named.example:{port}/a.jpg"]).table.to_pylist()
    assert read(row) == jpeg(1)
    row["uri"] = f"http://named.example:{port}/go.jpg?to=http://inner.example:{port}/secret.jpg"
    assert (read(row) == jpeg(1)) if inside else refused(row)
    assert bool(inner.asked) is inside


@pytest.mark.parametrize("named_by", ["the source", "a table"])
def test_a_name_that_later_leads_inside_is_refused(
    named_by: str, private: _Server, inner: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of a name server is looked at at every request, also where the user named the server."""
    place = f"http://named.example:{private.server_port}"
    monkeypatch.setattr(allowed, "is_public", lambda address: address == "127.0.0.1")
    answer(monkeypatch, {"named.example": "127.0.0.1"})
    source = f"{place}/a.jpg"
    if named_by == "a table":
        source = str(tmp_path / "t.parquet")
        pq.write_table(pa.table({"url": [f"{place}/a.jpg"]}), source)
        configure({"allow_uris": (place,)})
    (row,) = list_sources([source]).table.to_pylist()
    assert read(row) == jpeg(1)
    answer(monkeypatch, {"named.example": "127.0.0.2"})
    if named_by == "the source":
        trust_sources([f"{place}/b.jpg"])  # a further one of the server, which is not asked about again
    configure({"timeout_s": 4.0})  # another client, as a worker has
    assert refused(row)
    assert inner.asked == []


def test_a_server_with_a_public_address_is_not_the_users_own(private: _Server, monkeypatch) -> None:
    """One of whose addresses leads inside: a stranger's name may have both."""
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert allowed.find_own_servers(["http://both.example/a"], []) == set()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[1:])
    assert allowed.find_own_servers(["http://inside.example/a", "s3://bucket/a"], []) == {"inside.example:80"}
    assert allowed.find_own_servers(["http://inside.example/b"], ["http://inside.example/a"]) == set()


def test_servers_that_the_user_named_are_spoken_to(tmp_path: Path, private: _Server) -> None:
    place = f"http://127.0.0.1:{private.server_port}"
    pq.write_table(pa.table({"url": [f"{place}/a.jpg"]}), tmp_path / "t.parquet")
    configure({"allow_uris": (place,)})
    (row,) = list_sources([str(tmp_path / "t.parquet")]).table.to_pylist()
    assert read(row) == jpeg(1)
    configure({"allow_uris": ()})
    (row,) = list_sources([f"{place}/b.jpg"]).table.to_pylist()
    assert read(row) == jpeg(1)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("fec0::1", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("uri", "prefix", "below"),
    [
        ("https://a.org/x/1.jpg", "https://a.org/x", True),
        ("https://A.org:443/x/1.jpg", "https://a.org/x/", True),
        ("https://a.org/xy.jpg", "https://a.org/x", False),
        ("https://a.org.evil.com/x/1.jpg", "https://a.org", False),
        ("https://a.org@evil.com/x/1.jpg", "https://a.org", False),
        ("https://a.org/x/../y.jpg", "https://a.org/x", False),
        ("https://a.org/x/%2e%2E/y.jpg", "https://a.org/x", False),
        ("https://a.org/x/%252e%252e/y.jpg", "https://a.org/x", False),
        ("https://a.org/x/%25252e%25252e/y.jpg", "https://a.org/x", False),
        ("https://a.org/x/..?y", "https://a.org/x", False),
        ("https://a.org/x/..#y", "https://a.org/x", False),
        ("file://x.jpg", "/", False),
        ("file:////data/x.jpg", "/data", True),
        ("https://a.org\\@evil.com/x", "https://a.org", False),
        ("http://a.org/x.jpg", "https://a.org", False),
        ("https://b.org/x.jpg", "https://", True),
        ("s3://bucket/x.jpg", "s3://bucket", True),
        ("s3://bucket2/x.jpg", "s3://bucket", False),
        ("/data/x.jpg", "file:///data", True),
        ("/data/../etc/x.jpg", "/data", False),
        ("file:///data", "/data", True),
    ],
)
def test_prefixes_end_where_a_name_ends(uri: str, prefix: str, below: bool) -> None:
    assert is_below(uri, [prefix]) is below
