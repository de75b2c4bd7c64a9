"""One writer a folder: leases of live, dead and foreign holders, on a disk and in a store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.errors import FolderBusy, InputError, Interrupted
from lucidflux_data.process import Process, this_process
from lucidflux_data.storage import lease as leases
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.journal import Rewriting
from lucidflux_data.storage.lease import NAME, STALE_S, hold
from tests.support.leases import foreign, write_lease
from tests.support.paths import ROOT
from tests.support.scenarios import speaking_to

HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
with hold(Folder({place!r}), 0.0, new=True):
    print("held", flush=True)
    time.sleep({seconds})
"""


@contextlib.contextmanager
def held_elsewhere(place: str, seconds: float = 60.0) -> Iterator[subprocess.Popen]:
    """Another process holds the folder for so long, or until the block ends."""
    code = HOLDER.format(root=str(ROOT), place=place, seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(store: Any) -> Iterator[str]:
    with speaking_to(store):
        with contextlib.suppress(Exception):
            store.client().create_bucket(Bucket="leases")
        yield f"s3://leases/{time.time_ns()}"


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "disk" else request.getfixturevalue("bucket")


def test_a_second_writer_is_told_who_writes_and_since_when(place: str) -> None:
    with held_elsewhere(place) as other:
        with pytest.raises(FolderBusy) as told, hold(Folder(place), 0.0):
            raise AssertionError("two writers")
        assert told.value.exit_code == 5
        who = f"process {other.pid} on {this_process().host}, which began"
        assert re.search(rf"{re.escape(f'{place} is being written by')} .*{re.escape(who)} \d+ s ago", str(told.value))


def test_waiting_ends_with_the_other(place: str, capfd: pytest.CaptureFixture[str]) -> None:
    with held_elsewhere(place, seconds=3.0), hold(Folder(place), 60.0):
        assert "waiting for" in capfd.readouterr().err
    assert not Folder(place).exists(NAME)


def test_a_killed_holder_is_replaced_at_once(place: str) -> None:
    with held_elsewhere(place) as other:
        os.kill(other.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # not waited for: a zombie has ended too
            with contextlib.suppress(FolderBusy), hold(Folder(place), 0.0):
                break
        else:
            raise AssertionError("still busy")
    assert not Folder(place).exists(NAME)


@pytest.mark.parametrize("change", ["pid", "started"])
def test_a_holder_that_ended_is_replaced_whatever_has_its_pid_now(place: str, change: str) -> None:
    gone = {"pid": 2**22 - 1} if change == "pid" else {"started": 1.0}
    write_lease(place, replace(this_process(), **gone))
    with hold(Folder(place), 0.0):
        assert b"of another" not in Folder(place).read(NAME)


def test_a_machine_that_was_started_again_has_no_holder(place: str) -> None:
    if not this_process().boot or not this_process().machine:
        pytest.skip("this machine cannot be told from others")
    write_lease(place, replace(this_process(), boot="the boot before"))
    with hold(Folder(place), 0.0):
        assert b"of another" not in Folder(place).read(NAME)


@pytest.mark.parametrize("holder", [foreign(), replace(this_process(), namespace="pid:[of another container]"), None])
def test_a_foreign_holder_is_replaced_when_it_was_silent(tmp_path: Path, holder: Process | None) -> None:
    place = str(tmp_path)
    write_lease(place, holder, STALE_S - 10)
    told = r"last heartbeat 5\d s ago"
    with pytest.raises(FolderBusy, match=told), hold(Folder(place), 0.0):
        pass
    write_lease(place, holder, STALE_S + 1)
    with hold(Folder(place), 0.0):
        pass
    assert os.listdir(place) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"since": "x"},
        {"since": None},
        {"command": ["x"]},
        {"token": 5},
        {"holder": {"pid": "of another"}},
        {"holder": 5},
    ],
)
def test_a_lease_of_odd_values_and_of_a_time_to_come_is_told_by_its_silence(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    about = {"token": "t", "command": "c", "since": 1.0, "holder": asdict(foreign())}
    holder = (
        about["holder"] | odd["holder"] if isinstance(odd.get("holder"), dict) else odd.get("holder", about["holder"])
    )
    path = tmp_path / NAME
    path.write_text(json.dumps(about | odd | {"holder": holder}))
    with pytest.raises(FolderBusy, match="last heartbeat"), hold(Folder(str(tmp_path)), 0.0):
        pass
    os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    with hold(Folder(str(tmp_path)), 0.0):
        pass
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_in_the_place_of_a_lease_is_a_sentence(tmp_path: Path) -> None:
    """Nothing waits, no link is followed, what is not ours stays, and nothing of ours is left."""
    users = tmp_path / "users.txt"
    users.write_text("precious")
    laid: dict[str, Callable[[Path], object]] = {
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a link that leads nowhere": lambda path: path.symlink_to("/nowhere/x"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a link to a file of the user": lambda path: path.symlink_to(users),
    }
    for name, lay in laid.items():
        place = tmp_path / name
        place.mkdir()
        lay(place / NAME)
        told = pytest.raises(InputError, match=r"\.lease is a link, a folder or a pipe, and none of ours: remove it")
        with told, hold(Folder(place), 0.0):
            pass
        assert [path.name for path in place.iterdir()] == [NAME], name
    assert users.read_text() == "precious"


def test_the_command_of_a_stranger_reaches_the_terminal_as_text(tmp_path: Path, capfd) -> None:
    holder = asdict(foreign()) | {"host": "\x1b]0;title\x07"}
    content = {"token": "t", "command": "\x1b[2J\u202eforget", "since": time.time(), "holder": holder}
    (tmp_path / NAME).write_text(json.dumps(content))
    with pytest.raises(FolderBusy), hold(Folder(tmp_path), 0.2):
        pass
    said = capfd.readouterr().err
    assert said.startswith("waiting for `")
    assert said.isascii()
    assert said.replace("\n", "").isprintable()


def test_a_lease_of_forty_gigabytes_is_not_read(tmp_path: Path) -> None:
    for age_s in (0.0, 100.0):
        (tmp_path / NAME).touch()
        os.truncate(tmp_path / NAME, 40 << 30)
        os.utime(tmp_path / NAME, (time.time() - age_s,) * 2)
        told: Any = contextlib.nullcontext() if age_s else pytest.raises(FolderBusy, match="did not say who")
        with told, hold(Folder(tmp_path), 0.0):
            assert (tmp_path / NAME).stat().st_size < 1000
    assert list(tmp_path.iterdir()) == []


def test_what_takes_the_place_of_a_lease_meanwhile_ends_no_good_command(tmp_path: Path) -> None:
    with hold(Folder(tmp_path), 0.0):
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).mkdir()
    assert (tmp_path / NAME).is_dir()


def test_a_foreign_holder_in_a_store_is_replaced_when_it_was_silent(bucket: str, monkeypatch) -> None:
    write_lease(bucket, foreign())
    with pytest.raises(FolderBusy, match="process 4242 on node-7"), hold(Folder(bucket), 0.0):
        pass
    monkeypatch.setattr(leases, "STALE_S", 1.0)
    with hold(Folder(bucket), 30.0):
        pass
    assert not Folder(bucket).exists(NAME)


def test_a_stopped_process_of_this_machine_keeps_its_folder(tmp_path: Path) -> None:
    write_lease(str(tmp_path), this_process(), 10 * STALE_S)
    with pytest.raises(FolderBusy), hold(Folder(tmp_path), 0.0):
        pass


def test_a_heartbeat_renews_the_lease(place: str, monkeypatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.1)
    folder = Folder(place)
    with hold(folder, 0.0, new=True):
        first = folder.fs.modified(folder.path(NAME))
        deadline = time.monotonic() + 20
        while folder.fs.modified(folder.path(NAME)) == first:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_who_lost_the_lease_publishes_no_manifest_and_leaves_the_other_alone(place: str) -> None:
    folder = Folder(place)
    with hold(folder, 0.0, new=True):
        folder.publish("manifest.json", b"mine")
        write_lease_of_another(folder)
        with pytest.raises(Interrupted, match=r"process 4242 on node-7.* writes there now"):
            folder.publish("manifest.json", b"still mine")
        folder.publish("scores/unit-000000.parquet", b"equal whoever writes it")
        with pytest.raises(Interrupted):
            Rewriting(folder, {}).commit()
    assert folder.read("manifest.json") == b"mine"
    assert b"of another" in folder.read(NAME)


def write_lease_of_another(folder: Folder) -> None:
    content = {"token": "of another", "command": "lucidflux-data forget", "since": 0, "holder": asdict(foreign())}
    if folder.is_local:
        Path(folder.path(NAME)).write_text(json.dumps(content))
    else:
        folder.fs.pipe_file(folder.path(NAME), json.dumps(content).encode())


def test_a_thread_takes_its_folder_again_and_no_other_thread_does(tmp_path: Path) -> None:
    told: list[Exception] = []

    def other() -> None:
        try:
            with hold(Folder(tmp_path), 0.0):
                pass
        except FolderBusy as error:
            told.append(error)

    with hold(Folder(tmp_path), 0.0), hold(Folder(tmp_path)):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(told) == 1
    with hold(Folder(tmp_path), 0.0):
        pass


def test_of_many_that_replace_a_dead_holder_one_has_it(place: str) -> None:
    write_lease(place, replace(this_process(), pid=2**22 - 1))
    barrier, inside, most, busy = threading.Barrier(8), [0], [0], [0]
    lock = threading.Lock()

    def take() -> None:
        barrier.wait()
        try:
            with hold(Folder(place), 0.0):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.5)
                with lock:
                    inside[0] -= 1
        except FolderBusy:
            with lock:
                busy[0] += 1

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], busy[0]) == (1, 7)


def test_nothing_is_left_of_a_folder_that_was_made_in_vain(tmp_path: Path) -> None:
    with contextlib.suppress(ValueError), hold(Folder(tmp_path / "a" / "b"), 0.0, new=True):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with hold(Folder(tmp_path / "not there"), 0.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_conditional_puts_is_told_of(bucket: str, monkeypatch, capfd) -> None:
    """As stores do that pass over the header."""
    s3fs = pytest.importorskip("s3fs")
    put = s3fs.S3FileSystem._call_s3

    async def without(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("IfNoneMatch", None)
        kwargs.pop("IfMatch", None)
        return await put(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", without)
    monkeypatch.setattr(leases, "_unconditional", set())
    with hold(Folder(bucket), 0.0):
        assert "s3://leases takes no conditional PUT" in capfd.readouterr().err
        with held_by_a_thread(bucket) as told:
            assert len(told) == 1
    assert not Folder(bucket).exists(NAME)


@contextlib.contextmanager
def held_by_a_thread(place: str) -> Iterator[list[FolderBusy]]:
    told: list[FolderBusy] = []

    def take() -> None:
        try:
            with hold(Folder(place), 0.0):
                pass
        except FolderBusy as error:
            told.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    yield told
