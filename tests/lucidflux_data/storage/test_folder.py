"""Folders on a local disk, where a writer of an earlier run may still be at work."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from s3fs import S3FileSystem

from lucidflux_data.process import this_process
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.journal import Rewriting
from tests.support.paths import ROOT
from tests.support.scenarios import speaking_to


def test_sweeping_beside_a_writer_raises_nothing_and_ends_clean(tmp_path: Path) -> None:
    folder, temporary = Folder(tmp_path), tmp_path / ".tmp"
    done = threading.Event()
    died: list[Exception] = []

    def write() -> None:
        number = 0
        while not done.is_set():
            try:
                with contextlib.suppress(FileNotFoundError, FileExistsError):  # swept between the two lines
                    temporary.mkdir(exist_ok=True)
                    (temporary / f"{(number := number + 1)}.part").touch()
            except Exception as error:
                died.append(error)
                return

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            folder.sweep()
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert died == []
    folder.sweep()
    assert not temporary.exists()


PUBLISHER = """
import sys
sys.path.insert(0, {root!r})
from lucidflux_data.storage.folder import Folder
folder, failed = Folder({place!r}), 0
print("ready", flush=True)
for number in range(400):
    try:
        folder.publish(f"units/{{sys.argv[1]}}-{{number % 7}}", iter([b"a" * 1000, b"b" * 1000]))
    except Exception as error:
        failed += 1
        print(repr(error), file=sys.stderr)
print(failed)
"""


def test_no_publish_fails_beside_a_sweep(tmp_path: Path) -> None:
    """Of two processes and of two threads of this one, while a third thread sweeps without a pause."""
    code = PUBLISHER.format(root=str(ROOT), place=str(tmp_path))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    others = [subprocess.Popen([sys.executable, "-c", code, str(number)], **pipes) for number in range(2)]
    folder, died = Folder(tmp_path), []

    def publish(name: str) -> None:
        try:
            for number in range(400):
                folder.publish(f"units/{name}-{number % 7}", iter([b"a" * 1000, b"b" * 1000]))
        except Exception as error:
            died.append(error)

    threads = [threading.Thread(target=publish, args=(name,)) for name in "ab"]
    for other in others:
        assert other.stdout.readline() == "ready\n"
    for thread in threads:
        thread.start()
    sweeps = 0
    while any(thread.is_alive() for thread in threads) or any(other.poll() is None for other in others):
        folder.sweep()
        sweeps += 1
    told = [other.communicate() for other in others]
    assert died == []
    assert told == [("0\n", "")] * 2
    assert sweeps > 100
    assert len(folder.names("units")) == 28
    assert {(tmp_path / "units" / name).read_bytes() for name in folder.names("units")} == {b"a" * 1000 + b"b" * 1000}


def test_a_sweep_takes_what_ended_writers_left_and_nothing_else(tmp_path: Path) -> None:
    here = this_process()
    pattern = "{}-{}-{}-0123456789abcdef.part"
    own = pattern.format(here.place, here.pid, int(here.started))
    gone = pattern.format(here.place, 2**22 - 1, int(here.started))
    reused = pattern.format(here.place, here.pid, 1000)
    foreign = pattern.format("00c0ffee00c0", here.pid, int(here.started))
    silent = pattern.format("00c0ffee00c1", here.pid, int(here.started))
    temporary = tmp_path / ".tmp"
    temporary.mkdir()
    for name in (own, gone, reused, foreign, silent, "0123456789abcdef.part"):
        (temporary / name).write_bytes(b"half a file")
    os.utime(temporary / silent, (0, 0))
    users = ("notes.txt", "upload.part", "download")
    for name in users:
        (temporary / name).mkdir() if name == "download" else (temporary / name).write_bytes(b"of somebody else")
        os.utime(temporary / name, (0, 0))
    (temporary / gone.replace("0123", "4567")).mkdir()  # a folder that was to be replaced
    (temporary / gone.replace("0123", "4567") / "hq-000000.tar").write_bytes(b"old")
    Folder(tmp_path).sweep()
    assert set(os.listdir(temporary)) == {own, foreign, *users}


def test_a_store_has_a_folder_whole_at_any_moment_of_its_replacement(store: Any, monkeypatch) -> None:
    """Every object of the old or of the new one is there after each request."""
    with speaking_to(store):
        store.client().create_bucket(Bucket="replaced")
        folder = Folder("s3://replaced/run")
        names = [f"hq-{number:06d}{ending}" for number in range(2) for ending in (".index.parquet", ".tar")]
        for name in names:
            folder.publish(f"shards/{name}", b"old")
            folder.publish(f".next/a/{name}", b"new")
        folder.publish("shards/hq-000002.tar", b"old")
        states: list[dict[str, bytes]] = []
        request = S3FileSystem._call_s3

        async def seen(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            answer = await request(self, method, *args, **kwargs)
            if method in ("copy_object", "delete_object", "delete_objects"):
                states.append(store.files("replaced", "run/shards/"))
            return answer

        monkeypatch.setattr(S3FileSystem, "_call_s3", seen)
        change = Rewriting(folder, {})
        for name in sorted(names, reverse=True):
            change.move(f".next/a/{name}", f"shards/{name}", "unknown")
        change.remove("shards/hq-000002.tar")
        change.commit()
        assert len(states) >= 5
        for state in states:
            assert {f"run/shards/{name}" for name in names} <= state.keys()
            assert set(state.values()) <= {b"old", b"new"}
        assert store.files("replaced", "run/") == {f"run/shards/{name}": b"new" for name in names}
