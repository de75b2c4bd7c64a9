"""Credentials that end half-way, and single objects that may not be read: a stop or a failed row, never the other."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.errors import CredentialsError, ImageError, InputError, Interrupted
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.reading import REFUSED, read_bytes, read_known
from lucidflux_data.storage import folder as folders
from lucidflux_data.storage import refusals
from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from tests.support.photos import write_small

WITHDRAWN = ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "401"]
OPTIONS = ["--iqa", "none", "--executor", "local", "--num-cpus", "1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    return write_small(tmp_path_factory.mktemp("refused") / "photos", photo_paths[:12], 320, 240)


@pytest.fixture
def bucket(store, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of photos that this process may read, and whose store may be told to refuse."""
    name = f"refused-{os.urandom(4).hex()}"
    store.upload(name, photos)
    for variable, value in store.environment.items():
        monkeypatch.setenv(variable, value)
    before = dict(SETTINGS)
    configure({"endpoint_url": store.url})
    refusals._readable.clear()
    yield name
    store.faults.refuse = lambda method, path: None
    configure(before)
    folders._opened.cache_clear()


def after(count: int, bucket: str, code: str) -> Callable[[str, str], str | None]:
    """Refuses everything of a bucket once so many of its objects were given out."""
    given = itertools.count(1)
    state = {"given": 0}

    def refuse(method: str, path: str) -> str | None:
        if not path.startswith(f"/{bucket}"):
            return None
        if path.endswith(".jpg") and method == "GET":
            state["given"] = next(given)
        return code if state["given"] > count else None

    return refuse


@pytest.mark.parametrize("code", [*WITHDRAWN, "AccessDenied"])
def test_a_store_that_refuses_all_that_it_gave_stops_the_reading(store, bucket: str, code: str) -> None:
    assert read_bytes(f"s3://{bucket}/00.jpg")
    store.faults.refuse = lambda method, path: code
    with pytest.raises(CredentialsError, match="refresh them"):
        read_bytes(f"s3://{bucket}/01.jpg")
    with pytest.raises(CredentialsError):
        read_known(f"s3://{bucket}/00.jpg")


def test_credentials_that_come_later_are_used_by_the_same_process(store, bucket: str, monkeypatch) -> None:
    """As in a notebook, where one sees the sentence and sets them."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    with pytest.raises(ImageError, match="no credentials were found"):
        read_bytes(f"s3://{bucket}/00.jpg")
    for variable, value in store.environment.items():
        monkeypatch.setenv(variable, value)
    assert read_bytes(f"s3://{bucket}/00.jpg")


@pytest.mark.parametrize("code", WITHDRAWN)
def test_who_asks_is_refused_before_anything_was_read(store, bucket: str, code: str) -> None:
    store.faults.refuse = lambda method, path: code
    with pytest.raises(CredentialsError):
        read_bytes(f"s3://{bucket}/00.jpg")
    with pytest.raises(InputError, match="may not be read with these credentials"):
        list_sources([f"s3://{bucket}"])


def test_one_object_that_may_not_be_read_costs_itself(store, bucket: str) -> None:
    store.faults.refuse = lambda method, path: "AccessDenied" if path.endswith("/03.jpg") else None
    for before in (False, True):
        with pytest.raises(ImageError) as refused:
            read_bytes(f"s3://{bucket}/03.jpg")
        assert (refused.value.reason, refused.value.detail) == ("unreadable", REFUSED)
        assert before or read_bytes(f"s3://{bucket}/00.jpg")


def test_what_was_read_before_and_is_refused_now_is_no_failure_of_the_image(store, bucket: str) -> None:
    store.faults.refuse = lambda method, path: "AccessDenied" if path.endswith("/03.jpg") else None
    with pytest.raises(CredentialsError):
        read_known(f"s3://{bucket}/03.jpg")


def test_a_table_that_was_listed_and_is_refused_now_stops_the_reading(store, bucket: str, tmp_path: Path) -> None:
    rows = pa.table({"image": [b"one", b"two"]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    store.client().put_object(Bucket=bucket, Key="rows.parquet", Body=(tmp_path / "rows.parquet").read_bytes())
    store.faults.refuse = lambda method, path: "AccessDenied"
    with pytest.raises(CredentialsError):
        read_bytes(f"s3://{bucket}/rows.parquet#1")
    with pytest.raises(CredentialsError):
        read_bytes(f"s3://{bucket}/photos.tar#a.jpg", 512, 10)


@pytest.mark.parametrize("code", ["ExpiredToken", pytest.param("AccessDenied", marks=pytest.mark.slow)])
def test_an_output_that_is_refused_is_a_stop(store, bucket: str, code: str) -> None:
    folder = Folder(f"s3://{bucket}/run")
    folder.publish("a", b"a")
    store.faults.refuse = lambda method, path: code
    with pytest.raises(Interrupted, match="refresh them"):
        folder.publish("b", b"b")
    with pytest.raises(Interrupted, match="refresh them"):
        folder.publish("c", iter([b"c" * 2**20] * 8))


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_a_run_stops_and_the_same_command_goes_on(
    store, bucket: str, photos: Path, tmp_path: Path, data_command, code: str
) -> None:
    command = ("filter", f"s3://{bucket}", *OPTIONS, "--out", tmp_path / "run")
    environment = os.environ | store.environment
    store.faults.refuse = after(5, bucket, code)
    stopped = data_command(*command, env=environment)
    assert stopped.returncode == 5, stopped.stderr
    assert "no longer accepts these credentials" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    store.faults.refuse = lambda method, path: code if path.startswith(f"/{bucket}") else None
    still = data_command(*command, env=environment)
    assert still.returncode == 5, still.stderr
    store.faults.refuse = lambda method, path: None
    ended = data_command(*command, "--json", env=environment)
    assert ended.returncode == 0, ended.stderr
    quiet = data_command("filter", photos, *OPTIONS, "--out", tmp_path / "quiet", "--json")
    one, other = json.loads(ended.stdout), json.loads(quiet.stdout)
    assert (one["kept"], one["rejected"], one["failed"]) == (other["kept"], other["rejected"], {})


def test_retry_reads_what_was_refused(store, bucket: str, tmp_path: Path, data_command) -> None:
    environment = os.environ | store.environment
    store.faults.refuse = lambda method, path: "AccessDenied" if path.endswith("/03.jpg") else None
    done = data_command("filter", f"s3://{bucket}", *OPTIONS, "--out", tmp_path / "run", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {"unreadable": 1}
    store.faults.refuse = lambda method, path: None
    again = data_command("retry", tmp_path / "run", "--executor", "local", "--num-cpus", "1", "--json", env=environment)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["recovered"] == 1
