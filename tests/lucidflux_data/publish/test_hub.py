"""Publishing to a Hub on loopback: what is sent, gone on with, refused, and what never leaves."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lucidflux_data.errors import ConfigError, Interrupted, StorageError, VerificationError
from lucidflux_data.publish import hub as publishing
from lucidflux_data.publish.published import list_published
from lucidflux_data.storage.folder import Folder
from tests.support.hub import Hub, Repository, serve_hub

COMMAND = str(Path(sys.executable).with_name("lucidflux-data"))
TO = "hf://datasets/lab/set"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Settings that `huggingface_hub` reads from the environment when it is imported; LFS, which this Hub speaks."""
    from huggingface_hub import constants

    with serve_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", served.token)
        yield served


@pytest.fixture(scope="module")
def carded(made_run: Path, data_command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("carded") / "run"
    shutil.copytree(made_run, run)
    assert data_command("card", run).returncode == 0
    return run


@pytest.fixture
def run(carded: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(carded, tmp_path / "run"))


def published(folder: Path) -> dict[str, bytes]:
    """What is to be on the Hub, by its path."""
    names = [
        "README.md",
        "croissant.json",
        "manifest.json",
        *(f"shards/{p.name}" for p in (folder / "shards").iterdir()),
    ]
    return {name: (folder / name).read_bytes() for name in names}


def there(hub: Hub, branch: str = "main") -> dict[str, bytes]:
    return {name: file.data for name, file in hub.repositories["lab/set"].branches[branch].items()}


def push(data_command: Callable[..., subprocess.CompletedProcess[str]], folder: Path, *options: str):
    """The command, which verifies first in another process."""
    return data_command("push", folder, "--to", TO, "--num-cpus", "1", *options)


def send(folder: Path, revision: str = "main", private: bool = False) -> publishing.Pushed:
    """What the command does behind the verification."""
    place = Folder(folder)
    files = list_published(place, "lab/set", revision)
    return publishing.push(place, files, publishing.Destination("lab/set", revision, private), lambda line: None)


def test_all_that_is_published_and_nothing_else_is_sent(hub: Hub, carded: Path, data_command) -> None:
    done = push(data_command, carded, "--private")
    assert done.returncode == 0, done.stderr
    assert there(hub) == published(carded)
    assert hub.repositories["lab/set"].private
    assert hub.repositories["lab/set"].messages == ["Publish the set with lucidflux"]
    large = [data for name, data in published(carded).items() if name.startswith("shards/")]
    assert dict(hub.puts) == {hashlib.sha256(data).hexdigest(): 1 for data in large}
    assert str(carded.parent) not in b"".join(there(hub).values()).decode("latin-1")
    assert send(carded)["sent"] == 0
    assert len(hub.repositories["lab/set"].messages) == 1
    assert set(hub.puts.values()) == {1}


def test_a_killed_upload_goes_on_and_sends_nothing_twice(hub: Hub, carded: Path, tmp_path: Path) -> None:
    """The sender is killed when it begins its third object."""
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    sender = subprocess.Popen(
        [COMMAND, "push", carded, "--to", TO, "--num-cpus", "1"],
        env={**os.environ, **environment, "HF_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    begun = []

    def kill(method: str, path: str) -> int | None:
        begun.extend([path] * (method == "PUT"))
        if len(begun) < 3 or method != "PUT":
            return None
        sender.send_signal(signal.SIGKILL)
        return 503

    hub.refuse = kill
    assert sender.wait(timeout=120) == -signal.SIGKILL
    assert there(hub) == {}
    arrived = dict(hub.puts)
    assert arrived
    hub.refuse = lambda method, path: None
    send(carded)
    assert there(hub) == published(carded)
    assert set(hub.puts.values()) == {1}, "what had arrived is not sent again"
    assert arrived.keys() < hub.puts.keys()


def test_large_sets_go_in_parts_with_the_card_last(hub: Hub, carded: Path, monkeypatch) -> None:
    seen = []
    answer = hub.answer

    def note(method: str, path: str, body: bytes, token: str | None):
        found = answer(method, path, body, token)
        if "/commit/" in path:
            seen.append(sorted(there(hub, "parts")))
        return found

    monkeypatch.setattr(hub, "answer", note)
    monkeypatch.setattr(publishing, "IN_A_COMMIT", 3)
    monkeypatch.setattr(publishing, "AT_ONCE", 1)
    send(carded, "parts")
    assert len(seen) > 1
    assert not any("README.md" in names or "manifest.json" in names for names in seen[:-1])
    assert there(hub, "parts") == published(carded)
    assert there(hub) == {}
    assert hub.repositories["lab/set"].messages[0] == f"Publish the set with lucidflux (part 1 of {len(seen)})"


def test_shards_that_the_set_has_no_more_go(hub: Hub, run: Path, data_command) -> None:
    """Shards of one image more than fit in a smaller set; the card of before is not sent with it."""
    send(run)
    before = set(there(hub))
    assert data_command("pack", run, "--set", "shards.max_samples=4", "--executor", "local").returncode == 0
    with pytest.raises(VerificationError, match="is of other shards than those that are there now"):
        send(run)
    assert data_command("card", run).returncode == 0
    removed = send(run)["removed"]
    assert removed == ["shards/hq-000001.index.parquet", "shards/hq-000001.tar"]
    assert set(there(hub)) == before - set(removed)
    assert there(hub) == published(run)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(bytes(data))


WRONG = {
    "a shard is damaged": (lambda run: _flip(run / "shards" / "hq-000000.tar"), "does not have the sha256"),
    "a shard is gone": (lambda run: (run / "shards" / "hq-000001.tar").unlink(), "hq-000001.tar is missing"),
    "no card": (lambda run: (run / "README.md").unlink(), "has no card (README.md)"),
    "no croissant": (lambda run: (run / "croissant.json").unlink(), "has no croissant.json"),
    "a card of something else": (lambda run: (run / "README.md").write_text("# Ours"), "does not begin with YAML"),
    "a file beside": (lambda run: (run / "notes.txt").write_text("mine"), "files that no manifest lists: notes.txt"),
    "a file below": (
        lambda run: (run / "shards" / "key.pem").write_text("secret"),
        "no manifest lists: shards/key.pem",
    ),
    "a link": (lambda run: (run / "shards" / "x").symlink_to("/etc/hostname"), "no manifest lists: shards/x"),
    "no manifest": (lambda run: (run / "manifest.json").unlink(), "has no manifest.json"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_whole_is_not_published(what: str, hub: Hub, run: Path, data_command) -> None:
    spoil, sentence = WRONG[what]
    spoil(run)
    done = push(data_command, run)
    assert done.returncode == 6
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.requests == []


def test_a_card_for_another_place_is_not_published(hub: Hub, run: Path, data_command) -> None:
    assert data_command("card", run, "--to", "hf://datasets/lab/other").returncode == 0
    done = push(data_command, run)
    assert done.returncode == 6
    assert "was written for https://huggingface.co/datasets/lab/other/resolve/main/" in done.stderr
    assert data_command("card", run, "--to", TO, "--revision", "v2").returncode == 0
    assert 'load_dataset("lab/set", revision="v2",' in (run / "README.md").read_text()
    with pytest.raises(VerificationError, match="resolve/v2/"):
        send(run)
    assert send(run, "v2")["revision"] == "v2"


def test_a_dry_run_asks_nobody(hub: Hub, carded: Path, data_command) -> None:
    done = push(data_command, carded, "--dry-run")
    assert done.returncode == 0
    assert all(name in done.stdout for name in published(carded))
    assert "run.json" not in done.stdout
    assert hub.requests == []


def test_what_the_hub_refuses_is_a_sentence(hub: Hub, carded: Path, data_command, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    done = push(data_command, carded)
    assert done.returncode == 5
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line == (
        f"error: {TO}: the Hub does not accept this token (401): `hf auth login`, then repeat the command to resume"
    )
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for status, where, error, told in (
        (403, "/api/repos/create", Interrupted, r"this token may not write there \(403: planted\)"),
        (403, "/objects/", Interrupted, r"this token may not write there \(403"),
        (422, "/commit/", ConfigError, r"the Hub refuses it \(422: planted\)"),
    ):
        hub.refuse = lambda method, path, status=status, where=where: status if where in path else None
        with pytest.raises(error, match=told):
            send(carded)
    assert there(hub) == {}


def test_what_is_missing_here_is_a_sentence(hub: Hub, carded: Path, data_command, monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    hub.repositories["lab/set"] = Repository(private=False)
    with pytest.raises(ConfigError, match="is there and is public"):
        send(carded, private=True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(StorageError, match="or set HF_HUB_DISABLE_XET=1 to send without xet"):
        send(carded)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="the Hub cannot be reached"):
        send(carded)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = push(data_command, carded)
    assert (done.returncode, "switched off here (HF_HUB_OFFLINE)" in done.stderr) == (2, True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    done = push(data_command, carded)
    assert (done.returncode, "there is no token of the Hub here" in done.stderr) == (2, True)
    done = data_command("push", carded, "--to", "s3://bucket/set")
    assert (done.returncode, "write hf://datasets/OWNER/NAME" in done.stderr) == (2, True)


def test_a_shard_that_changes_on_the_way_is_not_committed(hub: Hub, run: Path) -> None:
    def change(method: str, path: str) -> None:
        if "/preupload/" in path:
            _flip(run / "shards" / "hq-000000.tar")

    hub.refuse = change
    with pytest.raises(VerificationError, match=r"shards/hq-000000\.tar changed while it was sent"):
        send(run)
    assert there(hub) == {}


def test_pairs_do_not_take_the_place_of_images(
    hub: Hub, carded: Path, made_pairs: Path, data_command, tmp_path: Path
) -> None:
    pairs = Path(shutil.copytree(made_pairs, tmp_path / "pairs"))
    assert data_command("card", pairs).returncode == 0
    send(pairs)
    assert there(hub) == published(pairs)
    with pytest.raises(ConfigError, match="holds another kind of set"):
        send(carded)
    assert there(hub) == published(pairs)
