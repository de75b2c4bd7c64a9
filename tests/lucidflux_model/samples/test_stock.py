"""Tars of anyone as data: which change is seen, what is a group, what is no pair, and a store that is away."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lucidflux_data.errors import CredentialsError, InputError, StorageError
from lucidflux_data.storage import folder as storage
from lucidflux_data.storage.config import SETTINGS
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_model.samples.reading import DataChanged, Unreadable, read_range
from lucidflux_model.samples.sources import open_shards
from lucidflux_model.samples.stored import ShardPairs
from lucidflux_model.samples.stream import Order, PairDataset, Pieces, Share, load, split
from tests.support import stock


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(SETTINGS)
    monkeypatch.setattr(storage, "WAIT_S", 0.0)
    yield
    SETTINGS.update(before)
    configure({})


def opened(source: object, run: Path) -> ShardPairs:
    return open_shards([str(source)], Folder(run))


def contents(source: ShardPairs) -> list[str]:
    return list(source.origin.contents.values())


def keep_time(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_tar_that_was_made_again_grown_or_joined_by_another_is_seen(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"
    first = opened(tmp_path / "*.tar", run)
    assert len(first) == 8
    assert contents(opened(tmp_path / "*.tar", run)) == contents(first)
    stock.make_tar(tar, first=50)
    again = opened(tmp_path / "*.tar", run)
    assert len(again) == 8
    assert contents(again) != contents(first)
    hq, _ = again.read(0, 0)
    assert np.array_equal(hq[..., ::-1], stock.picture(50))
    stock.make_tar(tar, 20, first=50)
    assert len(opened(tmp_path / "*.tar", run)) == 20
    stock.make_tar(tmp_path / "b.tar", 3, prefix="more")
    both = opened(tmp_path / "*.tar", run)
    assert (len(both), len(both.shards)) == (23, 2)
    (tmp_path / "b.tar").unlink()
    assert len(opened(tmp_path / "*.tar", run)) == 20


def test_the_same_size_and_time_do_not_hide_another_content(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"
    first, before = opened(tar, run), tar.stat()
    data = bytearray(tar.read_bytes())
    data[int(first._columns["hq_offset"][3]) + 200] ^= 255
    tar.write_bytes(bytes(data))
    keep_time(tar, before)
    after = tar.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)
    assert contents(opened(tar, run)) != contents(first)


def test_a_copy_elsewhere_with_other_times_is_the_same_data(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"
    first = opened(tar, run)
    os.utime(tar, (1, 1))
    assert contents(opened(tar, run)) == contents(first)
    (tmp_path / "moved").mkdir()
    shutil.move(tar, tmp_path / "moved" / "a.tar")
    assert contents(opened(tmp_path / "moved" / "a.tar", run)) == contents(first)


def test_what_changes_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    """A flipped byte on a disk is: the tar is in the state that it was in, as far as anyone can tell."""
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"
    source = opened(tar, run)
    stock.make_tar(tar, first=50)
    with pytest.raises(DataChanged, match=r"a\.tar was changed while the run read it: --resume --data-changed"):
        source.read(0, 0)
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataChanged, match=r"a\.tar was changed"):
        source.read(7, 0)
    again = opened(stock.make_tar(tar), run)
    data = bytearray(tar.read_bytes())
    data[int(again._columns["lq_offset"][2]) + 60] ^= 255
    tar.write_bytes(bytes(data))
    object.__setattr__(again.origin, "states", {again.shards[0]: _state(tar)})
    with pytest.raises(Unreadable, match="img0002: its lq has changed"):
        again.read(2, 0)


def _state(tar: Path) -> str:
    from lucidflux_model.samples.reading import tar_state

    return tar_state(f"file://{tar}")[0]


def test_names_are_no_groups(tmp_path: Path) -> None:
    """DIV2K_0001 is no variant of DIV2K; what a json of others calls a group is none of ours."""
    samples = {f"DIV2K_{i:04d}": stock.pair(i) for i in range(1, 9)}
    for number, side in enumerate((None, {"group": "all"}, {"group": 7}, [1], {"group": "x", "plan": {"hq_key": "y"}})):
        tar = stock.write_tar(tmp_path / f"{number}.tar", samples, side)
        assert opened(tar, tmp_path / "run").groups == list(samples)
    ours = {"group": "g", "plan": {"hq_key": "image"}, "versions": {}}
    tar = stock.write_tar(tmp_path / "ours.tar", samples, ours)
    assert set(opened(tar, tmp_path / "run").groups) == {"g"}
    tar = stock.write_tar(tmp_path / "variants.tar", samples, {"plan": {"hq_key": "image"}, "versions": {}})
    assert set(opened(tar, tmp_path / "run").groups) == {"image"}


def test_our_own_shards_keep_their_groups_as_stock_tars(train_pairs: Path, tmp_path: Path) -> None:
    ours = opened(train_pairs, tmp_path)
    theirs = opened(train_pairs / "shards" / "*.tar", tmp_path / "run")
    assert ours.groups == theirs.groups
    assert set(Counter(ours.groups).values()) == {2}
    assert [part.tolist() for part in split(ours.groups, 0.4)] == [part.tolist() for part in split(theirs.groups, 0.4)]


def test_keys_that_are_not_ascii(tmp_path: Path) -> None:
    names = ["日本/写真_0001", "Ärger", "ü", "a b", "e" * 90]
    tar = stock.write_tar(tmp_path / "ä.tar", {name: stock.pair(i) for i, name in enumerate(names)})
    source = opened(tar, tmp_path / "run")
    assert set(source._names()) == set(names)
    dataset = PairDataset(source, Order(np.arange(5), source.shard_of, 0, 4))
    (batch,) = load(dataset, Pieces(Share(5, 5), 0, 1), 0, False)
    assert set(batch["key"]) == set(names)
    for index, name in enumerate(source._names()):
        assert np.array_equal(source.read(index, 0)[0][..., ::-1], stock.picture(names.index(name)))
    assert source.digest() == opened(tar, tmp_path / "other").digest()


@pytest.mark.parametrize("lq", [(24, 48), (20, 20), (30, 24), (96, 24)])
def test_an_lq_of_another_shape_is_a_named_failure(tmp_path: Path, lq: tuple[int, int]) -> None:
    samples = {f"a{i}": stock.pair(i) for i in range(4)} | {"b": stock.pair(9, lq)}
    source = opened(stock.write_tar(tmp_path / "a.tar", samples), tmp_path / "run")
    with pytest.raises(Unreadable, match=rf"b: its LQ of {lq[1]}x{lq[0]} times 4 is not its HQ of 96x96"):
        source.read(4, 0)
    _, large = source.read(1, 0)
    small = Image.fromarray(stock.picture(100_001, (24, 24))[..., ::-1])
    assert np.array_equal(large, np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC)))


def test_pairs_of_one_odd_shape_are_refused_before_training(tmp_path: Path) -> None:
    tar = stock.write_tar(tmp_path / "a.tar", {f"a{i}": stock.pair(i, (24, 30)) for i in range(3)})
    with pytest.raises(InputError, match=r"a0: its LQ of 30x24 is of another shape than its HQ of 96x96"):
        opened(tar, tmp_path / "run")


@pytest.mark.parametrize("side", [24, 48, 64, 96])
def test_any_one_scale_is_taken(tmp_path: Path, side: int) -> None:
    tar = stock.write_tar(tmp_path / "a.tar", {f"a{i}": stock.pair(i, (side, side)) for i in range(2)})
    assert opened(tar, tmp_path / "run").read(1, 0)[1].shape == (96, 96, 3)


def test_images_far_from_each_other_in_a_tar_are_two_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lucidflux_model.samples.stored as stored

    pairs = {f"a{i}": stock.pair(i) for i in range(30)}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in ("hq.png", "lq.png"):
            part = stock.write_tar(tmp_path / "part.tar", {key: {kind: found[kind]} for key, found in pairs.items()})
            with tarfile.open(part) as source:
                for member in source:
                    tar.addfile(member, source.extractfile(member))
    (tmp_path / "part.tar").unlink()
    source, read = opened(tmp_path / "a.tar", tmp_path / "run"), []
    monkeypatch.setattr(stored, "GAP_BYTES", 1000)
    monkeypatch.setattr(stored, "read_range", lambda *span: read.append(span[2] - span[1]) or read_range(*span))
    assert np.array_equal(source.read(0, 0)[0][..., ::-1], stock.picture(0))
    assert read == [512 + len(pairs["a0"]["hq.png"]), 512 + len(pairs["a0"]["lq.png"])]


def test_a_remote_tar_with_another_etag_is_seen(tmp_path: Path) -> None:
    www, run = tmp_path / "www", tmp_path / "run"
    www.mkdir()
    stock.make_tar(www / "a.tar", 4)
    with stock.serve(www) as (url, store):
        first = opened(f"{url}/a.tar", run)
        assert np.array_equal(first.read(1, 0)[0][..., ::-1], stock.picture(1))
        store.asked = 0
        assert contents(opened(f"{url}/a.tar", run)) == contents(first)
        assert store.asked < 10, "nothing is gone through again"
        stock.make_tar(www / "a.tar", 4, first=9)
        again = opened(f"{url}/a.tar", run)
        assert contents(again) != contents(first)
        assert np.array_equal(again.read(1, 0)[0][..., ::-1], stock.picture(10))


def test_a_server_without_etags_is_read_and_compared(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    stock.make_tar(tmp_path / "www" / "a.tar", 2)
    with stock.serve(tmp_path / "www") as (url, store):
        store.etags = False
        first = opened(f"{url}/a.tar", tmp_path / "run")
        assert contents(opened(f"{url}/a.tar", tmp_path / "run")) == contents(first)
        stock.make_tar(tmp_path / "www" / "a.tar", 2, first=5)
        assert contents(opened(f"{url}/a.tar", tmp_path / "run")) != contents(first)


def test_remote_reads_are_tried_again_and_a_store_that_is_away_is_no_corrupt_sample(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    stock.make_tar(tmp_path / "www" / "a.tar", 4)
    with stock.serve(tmp_path / "www") as (url, store):
        source = opened(f"{url}/a.tar", tmp_path / "run")
        store.failing["/a.tar"] = 2
        assert np.array_equal(source.read(0, 0)[0][..., ::-1], stock.picture(0))
        store.away.add("*")
        with pytest.raises(StorageError, match=r"a\.tar did not answer"):
            source.read(0, 0)
        with pytest.raises(StorageError):
            opened(f"{url}/a.tar", tmp_path / "run")
        batch = PairDataset(source, Order(np.arange(4), source.shard_of, 0, 4))[0]
        assert batch["code"] == 5
        assert "corrupt" not in batch
        store.away.clear()
        assert opened(f"{url}/a.tar", tmp_path / "run").digest() == source.digest()


def test_a_local_tar_that_is_away(tmp_path: Path) -> None:
    source = opened(stock.make_tar(tmp_path / "a.tar"), tmp_path / "run")
    (tmp_path / "a.tar").rename(tmp_path / "b")
    with pytest.raises(StorageError, match=r"a\.tar cannot be opened: No such file"):
        source.read(0, 0)
    (tmp_path / "b").rename(tmp_path / "a.tar")
    assert source.read(0, 0)[0].shape == (96, 96, 3)


def test_credentials_that_a_store_no_longer_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lucidflux_model.samples.reading as reading

    def refuse(*_: object) -> None:
        raise PermissionError("403")

    monkeypatch.setattr(reading, "retry_call", refuse)
    with pytest.raises(CredentialsError, match="no longer accepts these credentials"):
        read_range("s3://bucket/a.tar", 0, 10)


def test_what_is_no_tar_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    stock.make_tar(tmp_path / "mixed" / "a.tar", 1)
    (tmp_path / "mixed" / "b.png").write_bytes(stock.png(stock.picture(0)))
    with pytest.raises(InputError, match=r"b\.png is not in a tar"):
        opened(tmp_path / "mixed", tmp_path / "run")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no tars of pairs"):
        opened(tmp_path / "none", tmp_path / "run")
    photos = stock.write_tar(tmp_path / "photos.tar", {"a": {"jpg": stock.png(stock.picture(0))}})
    with pytest.raises(InputError, match="holds no pairs: a sample needs the members hq"):
        opened(photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_index_of_before_or_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"
    first = opened(tar, run)
    (index,) = (run / "index").iterdir()
    whole = index.read_bytes()
    for data in (b"no parquet", whole[: len(whole) // 2], b""):
        index.write_bytes(data)
        assert contents(opened(tar, run)) == contents(first)
        assert index.read_bytes() == whole
