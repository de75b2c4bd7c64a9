"""Which sample comes when, who reads it, what is held out, and what happens to a damaged one."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import Folder
from lucidflux_model.samples.reading import DataChanged, Unreadable, tar_state
from lucidflux_model.samples.sources import OnlinePairs, open_pairs, open_shards
from lucidflux_model.samples.stream import Order, PairDataset, Pieces, Share, load, split
from lucidflux_model.samples.suites import SuiteImages
from tests.support import training
from tests.support.training import damage


def make_order(shards: int = 7, size: int = 10, seed: int = 0, window: int = 2) -> Order:
    shard_of = np.repeat(np.arange(shards, dtype=np.int32), size)
    return Order(np.arange(len(shard_of)) * 3, shard_of, seed, window)


def test_an_epoch_is_a_permutation_that_follows_from_seed_and_epoch() -> None:
    order = make_order()
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first) == sorted(second) == list(range(0, 210, 3))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, make_order().epoch(0))
    assert not np.array_equal(first, make_order(seed=1).epoch(0))


def test_reading_stays_within_windows_of_shards() -> None:
    order = make_order(shards=8, window=2)
    shards = order.epoch(3) // 3 // 10
    windows = [set(shards[start : start + 20]) for start in range(0, 80, 20)]
    assert [len(window) for window in windows] == [2, 2, 2, 2]
    assert set().union(*windows) == set(range(8))
    assert any(len(set(shards[start : start + 10])) == 2 for start in range(0, 80, 10)), "shards are mixed"


@pytest.mark.parametrize(("world", "micro"), [(1, 4), (1, 12), (2, 3), (3, 4), (4, 1)])
def test_the_ranks_of_an_epoch_see_each_sample_once(world: int, micro: int) -> None:
    """70 samples in steps of 12: the sixth step goes on into the next epoch."""
    order = make_order()
    seen: Counter[int] = Counter()
    for rank in range(world):
        share = Share(12, micro, rank, world)
        pieces = list(Pieces(share, 0, 35))  # six epochs
        assert {len(piece) for piece in pieces} == {micro}
        assert len(pieces) == 35 * share.pieces
        seen.update(position for piece in pieces for position in piece)
    assert seen == Counter(range(420))
    for epoch in range(6):
        assert Counter(order.at(p)[1] for p in range(epoch * 70, epoch * 70 + 70)) == Counter(range(0, 210, 3))


def test_any_number_of_processes_sees_the_same_global_batches() -> None:
    for world in (1, 2, 4):
        pieces = [piece for rank in range(world) for piece in Share(8, 2, rank, world).positions(40)]
        assert [position for piece in pieces for position in piece] == list(range(40, 48))


def test_no_group_is_on_both_sides_and_sides_are_stable() -> None:
    groups = [f"g{i // 3}" for i in range(3000)]
    training_, held = split(groups, 0.1)
    assert not {groups[i] for i in training_} & {groups[i] for i in held}
    assert len(training_) + len(held) == 3000
    assert 0.07 < len(held) / 3000 < 0.13
    _, more = split([*(f"new{i}" for i in range(500)), *groups], 0.1)
    assert {groups[i] for i in held} == {g for g in (groups[i - 500] for i in more if i >= 500)}
    assert not len(split(groups, 0.0)[1])


def test_near_duplicates_of_the_inputs_are_one_group(train_pairs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pairs"
    shutil.copytree(train_pairs, copy)
    (name,) = [path for path in (copy / "inputs").iterdir() if path.suffix == ".parquet"]
    table = Folder(copy).read_table(f"inputs/{name.name}")
    keys = table["key"].to_pylist()
    groups = pa.array([keys[0] if key in keys[:3] else None for key in keys], pa.string())
    table = table.set_column(table.schema.get_field_index("group"), table.schema.field("group"), groups)
    pa.parquet.write_table(table, name)
    source = open_shards([str(copy)], Folder(tmp_path))
    assert Counter(source.groups)[keys[0]] == 6
    assert {group for key, group in zip(source._names(), source.groups, strict=True) if key.startswith(keys[4])} == {
        keys[4]
    }


def read_all(source) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {source.key(index, 0): source.read(index, 0) for index in range(len(source))}


def test_pairs_are_read_as_another_reader_reads_them(train_pairs: Path, tmp_path: Path) -> None:
    """Against tarfile and Pillow."""
    source = open_shards([str(train_pairs)], Folder(tmp_path))
    assert source.size == (96, 96)
    assert len(source.shards) == 3
    found = read_all(source)
    for tar in (train_pairs / "shards").glob("*.tar"):
        with tarfile.open(tar) as file:
            for member in file.getmembers():
                key, _, kind = member.name.partition(".")
                data = file.extractfile(member).read()
                if kind == "hq.png":
                    assert np.array_equal(found[key][0], np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
                if kind == "lq.png":
                    lq = Image.open(io.BytesIO(data)).convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
                    assert np.array_equal(found[key][1], np.asarray(lq))
    assert len(found) == 12


def test_stock_tars_without_an_index_give_the_same_pairs(train_pairs: Path, tmp_path: Path) -> None:
    for path in (train_pairs / "shards").glob("*.tar"):
        shutil.copyfile(path, tmp_path / path.name)
    ours = open_shards([str(train_pairs)], Folder(tmp_path / "run"))
    stock = open_shards([str(tmp_path / "*.tar")], Folder(tmp_path / "run"))
    assert list((tmp_path / "run" / "index").iterdir()), "indexed once, and kept"
    a, b = read_all(ours), read_all(stock)
    assert a.keys() == b.keys()
    assert all(np.array_equal(x, y) for key in a for x, y in zip(a[key], b[key], strict=True))


@pytest.mark.parametrize("how", ["moved", "shorter"])
def test_a_stock_tar_that_is_written_again_has_changed(how: str, train_pairs: Path, tmp_path: Path) -> None:
    """It is no damage of a pair: the run stops and names the tar."""
    for path in (train_pairs / "shards").glob("*.tar"):
        shutil.copyfile(path, tmp_path / path.name)
    stock = open_shards([str(tmp_path / "*.tar")], Folder(tmp_path / "run"))
    tar = tmp_path / stock.shards[0].rpartition("/")[2]
    with tarfile.open(tar) as old, tarfile.open(tmp_path / "new", "w") as new:
        members = [(member, old.extractfile(member).read()) for member in old.getmembers()]
        first = tarfile.TarInfo("first.txt")
        first.size = 700
        for member, data in [(first, bytes(700)), *members] if how == "moved" else members[:3]:
            new.addfile(member, io.BytesIO(data))
    (tmp_path / "new").replace(tar)
    of_it = np.flatnonzero(stock.shard_of == 0)
    for index in of_it if how == "moved" else of_it[1:]:
        with pytest.raises(DataChanged, match="was changed while the run read it"):
            stock.read(int(index), 0)
    stock.origin.check(stock.shards[1])
    if how == "moved":
        same = open_shards([str(tmp_path / "*.tar")], Folder(tmp_path / "run"))
        assert len(read_all(same)) == len(stock)


@pytest.mark.parametrize("how", ["moved", "shorter"])
def test_without_a_checksum_the_header_before_a_member_tells(how: str, train_pairs: Path, tmp_path: Path) -> None:
    """As of a tar in a store, whose etag is not asked for again with each read."""
    tar = tmp_path / "a.tar"
    shutil.copyfile(next((train_pairs / "shards").glob("*.tar")), tar)
    stock = open_shards([str(tar)], Folder(tmp_path / "run"))
    stock._unchecked, whole = {0}, tar.read_bytes()
    tar.write_bytes(bytes(1024) + whole if how == "moved" else whole[:3000])
    object.__setattr__(stock.origin, "states", {stock.shards[0]: tar_state(stock.shards[0])[0]})
    with pytest.raises(Unreadable, match=r"has changed: it is damaged, or its shard was written again|breaks off"):
        stock.read(1, 0)


def test_online_pairs_have_the_pixels_of_stored_ones(train_pairs: Path, train_photos: Path, tmp_path: Path) -> None:
    stored = read_all(open_shards([str(train_pairs)], Folder(tmp_path)))
    online = OnlinePairs([str(train_photos)], "realesrgan-x4", 0, [f"size={training.SIZE}"])
    assert len(online) == 6
    for index in range(6):
        for epoch in (0, 1):
            hq, lq = online.read(index, epoch)
            assert np.array_equal(hq, stored[online.key(index, epoch)][0])
            assert np.array_equal(lq, stored[online.key(index, epoch)][1])


def test_an_hq_by_pointer_is_read_from_its_source(train_photos: Path, train_pairs: Path, tmp_path: Path) -> None:
    pointed = training.make_pairs(train_photos, tmp_path / "ref", "hq=ref")
    a = read_all(open_shards([str(pointed)], Folder(tmp_path)))
    b = read_all(open_shards([str(train_pairs)], Folder(tmp_path)))
    assert all(np.array_equal(a[key][0], b[key][0]) for key in b)


def test_a_damaged_pair_is_counted_and_replaced_by_the_next(train_pairs: Path, tmp_path: Path) -> None:
    broken = damage(train_pairs, tmp_path / "broken", "lq", 5)
    source = open_shards([str(broken)], Folder(tmp_path))
    with pytest.raises(Unreadable, match="its lq has changed"):
        source.read(5, 0)
    order = Order(np.arange(12), source.shard_of, 0, 4)
    place = order.epoch(0).tolist().index(5)
    batches = list(load(PairDataset(source, order), Pieces(Share(12, 12), 0, 1), 0, False))
    keys, after = batches[0]["key"], source.key(int(order.epoch(0)[(place + 1) % 12]), 0)
    assert keys[place] == after
    assert batches[0]["corrupt"] == [int(i == place) for i in range(12)]
    assert keys.count(after) == 2


def test_spawned_readers_bring_the_same_batches(train_pairs: Path, tmp_path: Path) -> None:
    source = open_shards([str(train_pairs)], Folder(tmp_path))
    dataset = PairDataset(source, Order(np.arange(12), source.shard_of, 0, 4))
    pieces = Pieces(Share(4, 2), 8, 4)
    here, there = (list(load(dataset, pieces, workers, False)) for workers in (0, 2))
    assert [batch["key"] for batch in here] == [batch["key"] for batch in there]
    assert all(torch.equal(a["hq"], b["hq"]) for a, b in zip(here, there, strict=True))


def test_a_pair_without_lq_is_named(train_pairs: Path, tmp_path: Path) -> None:
    tar = tmp_path / "some.tar"
    with tarfile.open(next((train_pairs / "shards").glob("*.tar"))) as source, tarfile.open(tar, "w") as out:
        lacking = source.getnames()[0].partition(".")[0]
        for member in source.getmembers():
            if member.name != f"{lacking}.lq.png":
                out.addfile(member, source.extractfile(member))
    with pytest.raises(InputError, match=rf"{lacking} of .*some.tar has no LQ"):
        open_pairs([str(tar)], None, 0, (), Folder(tmp_path))


def test_mixed_sizes_are_told_before_training(train_pairs: Path, train_photos: Path, tmp_path: Path) -> None:
    other = training.make_pairs(train_photos, tmp_path / "other", "degrade.size=128")
    tars = [str(folder / "shards" / "*.tar") for folder in (train_pairs, other)]
    with pytest.raises(InputError, match=r"mixed sizes, (96x96.*128x128|128x128.*96x96)"):
        open_pairs(tars, None, 0, (), Folder(tmp_path))


def test_no_shards_and_no_pairs(train_photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        open_pairs([str(tmp_path / "nothing")], None, 0, (), Folder(tmp_path))
    with pytest.raises(InputError, match=r"not in a tar.*data.online"):
        open_pairs([str(train_photos)], None, 0, (), Folder(tmp_path))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text(json.dumps({"kind": "pairs"}))
    with pytest.raises(InputError, match="repeat its command"):
        open_pairs([str(tmp_path / "half")], None, 0, (), Folder(tmp_path))


def test_lines_are_read_on_after_the_file_was_written_anew(tmp_path: Path) -> None:
    from lucidflux_model.training.progress.log import METRICS, read_on

    file = tmp_path / METRICS
    file.write_text('{"step": 1}\n{"step": 2}\n{"step"')
    lines, place = read_on(tmp_path, 0)
    assert [line["step"] for line in lines] == [1, 2]
    file.write_text('{"step": 1}\n{"step": 2, "loss": 0.25}\n{"step": 3}\n')  # longer, and `place` is inside a line
    assert [line["step"] for line in read_on(tmp_path, place)[0]] == [1, 2, 3]
    file.write_text('{"step": 1}\n')
    assert [line["step"] for line in read_on(tmp_path, place)[0]] == [1]


def test_an_image_of_a_suite_that_is_another_now(tmp_path: Path) -> None:
    (tmp_path / "lq").mkdir()
    files = [cv2.imencode(".png", np.full((8, 8, 3), level, np.uint8))[1].tobytes() for level in (10, 200)]
    images = {f"{k}": {"lq": {"file": f"{k}.png", "sha256": hashlib.sha256(files[k]).hexdigest()}} for k in (0, 1)}
    for k in (0, 1):
        (tmp_path / "lq" / f"{k}.png").write_bytes(files[k])
    (tmp_path / "suite.json").write_text(json.dumps({"name": "mine", "version": "1", "scale": 1, "images": images}))
    suite = SuiteImages(str(tmp_path))
    assert suite.read(0, 0)[1].max() == 10
    (tmp_path / "lq" / "0.png").write_bytes(files[1])
    with pytest.raises(Unreadable, match=r"0\.png: another image than that of suite\.json"):
        suite.read(0, 0)
    assert suite.read(1, 0)[1].max() == 200
