"""Data under a run: what changed is named and stops it, what is away stops it with a checkpoint, and both go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lucidflux_data.audit.forget import forget_pairs
from lucidflux_data.errors import ConfigError, InputError, StorageError
from lucidflux_data.storage.folder import Folder
from lucidflux_model.samples.reading import DataChanged
from lucidflux_model.samples.sources import OnlinePairs, PairSource, open_shards
from lucidflux_model.samples.stream import split
from lucidflux_model.training.checkpoints import Checkpoints, latest, outlived
from lucidflux_model.training.run_file import Claim, Data, changes_of, check_split, claim_run, starts_epoch
from lucidflux_model.training.setup import split_pairs
from tests.lucidflux_model.training.test_checkpoints import ALONE
from tests.support import stock, training


def stop_at(run: Path, step: int) -> None:
    """A run that has come to the checkpoint of a step, as far as its folder tells."""
    (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (run / "checkpoints" / f"step-{step:08d}" / "progress.json").write_text("{}")
    (run / "checkpoints" / "latest").write_text(f"step-{step:08d}")


def claimed(run: Path, source: PairSource, data_changed: bool = False) -> list[str]:
    """What is said when the run goes on with these data."""
    said: list[str] = []
    config = training.config_of()
    data = Data.of(source, np.array([], int), 0)
    claim_run(run, Claim(config, ["x"], data, "base", "tiny", None, (), data_changed), said.append)
    return said


def about(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def test_changed_tars_are_named_and_gone_on_with_where_that_is_asked_for(tmp_path: Path) -> None:
    tars, run = tmp_path / "tars", tmp_path / "run"
    tars.mkdir()
    for name in "abc":
        stock.make_tar(tars / f"{name}.tar", 3, first=ord(name), prefix=name)

    def now() -> PairSource:
        return open_shards([str(tars / "*.tar")], Folder(tmp_path / "index"))

    assert claimed(run, now()) == []
    stop_at(run, 7)
    assert claimed(run, now()) == []
    stock.make_tar(tars / "b.tar", 3, first=900, prefix="b")
    with pytest.raises(DataChanged, match=r"begun with other data: file://.*/b\.tar changed\. --resume --data-changed"):
        claimed(run, now())
    (tars / "c.tar").rename(tars / "d.tar")
    stock.make_tar(tars / "e.tar", 2, prefix="e")
    with pytest.raises(
        DataChanged, match=r"b\.tar changed, .*d\.tar is new, .*e\.tar is new, .*c\.tar is gone; 9 pairs"
    ):
        claimed(run, now())
    assert not changes_of(run)
    (said,) = claimed(run, now(), data_changed=True)
    assert "9 pairs before, 11 now; from here on the run repeats no other run exactly" in said
    (change,) = changes_of(run)
    assert change["after_step"] == 7
    assert "b.tar changed" in change["what"]
    assert claimed(run, now()) == [], "the new data are those of the run now"
    assert changes_of(run) == [change]
    assert starts_epoch(run, 7)
    assert starts_epoch(run, 5), "taken back behind the change"
    assert not starts_epoch(run, 8)


def test_data_that_only_moved_are_the_same(tmp_path: Path, train_pairs: Path) -> None:
    run = tmp_path / "run"
    claimed(run, open_shards([str(train_pairs)], Folder(tmp_path)))
    stop_at(run, 1)
    shutil.copytree(train_pairs, tmp_path / "elsewhere")
    assert claimed(run, open_shards([str(tmp_path / "elsewhere")], Folder(tmp_path))) == []
    stock.make_tar(tmp_path / "a.tar")
    other = tmp_path / "other"
    claimed(other, open_shards([str(tmp_path / "a.tar")], Folder(tmp_path)))
    stop_at(other, 1)
    (tmp_path / "a.tar").rename(tmp_path / "z.tar")
    assert claimed(other, open_shards([str(tmp_path / "z.tar")], Folder(tmp_path))) == []


def test_a_set_that_forget_changed_says_so(tmp_path: Path, train_pairs: Path) -> None:
    pairs, run = shutil.copytree(train_pairs, tmp_path / "pairs"), tmp_path / "run"
    source = open_shards([str(pairs)], Folder(tmp_path))
    claimed(run, source)
    stop_at(run, 3)
    key = source.groups[0]
    forget_pairs(Folder(pairs), [key])
    now = open_shards([str(pairs)], Folder(tmp_path))
    assert len(now) == len(source) - 2
    told = r"pairs-000000\.tar changed; 12 pairs before, 10 now; `lucidflux-data forget` took 1 image\(s\) out of them"
    with pytest.raises(DataChanged, match=told):
        claimed(run, now)
    with pytest.raises(DataChanged, match="was changed while the run read it"):
        [source.read(index, 0) for index in range(len(source))]


def test_images_on_line_are_data_too(tmp_path: Path, train_photos: Path) -> None:
    photos, run = shutil.copytree(train_photos, tmp_path / "photos"), tmp_path / "run"
    claimed(run, OnlinePairs([str(photos)], "realesrgan-x4", 0, ["size=96"]))
    stop_at(run, 3)
    next(photos.iterdir()).unlink()
    with pytest.raises(DataChanged, match="6 pairs before, 5 now"):
        claimed(run, OnlinePairs([str(photos)], "realesrgan-x4", 0, ["size=96"]))


def test_a_run_of_before_records_its_data_once(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar"), tmp_path / "run"

    def now() -> PairSource:
        return open_shards([str(tar)], Folder(tmp_path / "index"))

    claimed(run, now())
    stop_at(run, 2)
    old = {name: value for name, value in about(run).items() if name not in ("data", "seal", "sha256")}
    (run / "run.json").write_text(json.dumps({k: v for k, v in old.items() if "sha" not in k.lower()}))
    (run / "data.json").unlink()
    (said,) = claimed(run, now())
    assert said.startswith("warning: the contents of the data were not recorded before this version")
    assert claimed(run, now()) == []
    stock.make_tar(tar, 9)
    (run / "run.json").write_text(json.dumps({k: v for k, v in old.items() if "sha" not in k.lower()}))
    with pytest.raises(DataChanged, match="keys or sizes of its pairs differ"):
        claimed(run, now())


def test_more_than_twice_the_asked_share_is_never_held_out(tmp_path: Path) -> None:
    """Twenty pairs of ours whose json makes one image of them: all or none would be held out."""
    check_split(4, 20, 0.1, ("g", 4))
    with pytest.raises(
        InputError, match=r"=0\.1 would hold out 5 of 20 pairs \(25\.0%\).* the group g alone has 5 pairs"
    ):
        check_split(5, 20, 0.1, ("g", 5))
    side = {"plan": {"hq_key": "x"}, "versions": {}}
    stock.write_tar(tmp_path / "a.tar", {f"k{i}": stock.pair(i) for i in range(20)}, side)
    source = open_shards([str(tmp_path / "a.tar")], Folder(tmp_path))
    fraction = next(f / 100 for f in range(1, 100) if len(split(source.groups, f / 100)[1]))
    config = training.config_of(f"validation.fraction={fraction}")
    with pytest.raises(InputError, match="are held out for validation"):
        split_pairs(config, source, new=True)
    plain = {"plan": {"hq_key": "y"}, "versions": {}}
    stock.write_tar(tmp_path / "b.tar", {f"m{i}": stock.pair(30 + i) for i in range(5)}, plain)
    both = open_shards([str(tmp_path / "*.tar")], Folder(tmp_path))
    for step in range(1, 100):
        config = training.config_of(f"validation.fraction={step / 100}")
        held = split(both.groups, step / 100)[1]
        if 0 < len(held) < 25 and len(held) > 2 * step / 100 * 25:
            with pytest.raises(InputError, match=r"the group [xy] alone has (20|5) pairs"):
                split_pairs(config, both, new=True)
            assert len(split_pairs(config, both, new=False)[1]) == len(held), "a run that goes on keeps its split"


def test_a_run_stops_at_changed_tars_and_goes_on_with_the_next_epoch(tmp_path: Path) -> None:
    tar, run = stock.make_tar(tmp_path / "a.tar", 6), tmp_path / "run"
    settings = ("batch_size=2", "checkpoint_every=1")
    training.run(tar, run, "steps=1", *settings)
    stock.make_tar(tar, 6, first=60)
    with pytest.raises(DataChanged, match=r"a\.tar changed"):
        training.run(tar, run, "steps=2", *settings)
    told = training.run(tar, run, "steps=2", *settings, data_changed=True)
    assert told["data_changed"] == [f"after step 1: file://{tar} changed"]
    assert [(line["step"], line["epoch"], line["consumed"]) for line in training.lines(run)] == [(1, 0, 2), (2, 1, 2)]
    assert training.run(tar, run, "steps=2", *settings)["data_changed"] == told["data_changed"]
    with pytest.raises(ConfigError, match="belongs to --resume"):
        training.run(tar, tmp_path / "new", "steps=2", resume=False, data_changed=True)


def test_a_store_that_is_away_stops_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """Of a run that would have saved after its last step alone; resumed, it equals one that nothing happened to."""
    tar, away = stock.make_tar(tmp_path / "a.tar", 6), tmp_path / "away"
    settings = ("batch_size=2", "checkpoint_every=100", "steps=4", "micro_batch=1")

    def go_away(line: dict) -> None:
        if line["step"] == 2:
            tar.rename(away)

    with pytest.raises(StorageError.__base__) as stopped:
        training.run(tar, tmp_path / "run", *settings, on_step=go_away)
    assert stopped.value.exit_code == 5
    assert str(stopped.value).endswith(
        "a.tar cannot be opened: No such file or directory; "
        "stopped after step 2, checkpoint step-00000002: --resume goes on"
    )
    assert latest(tmp_path / "run").name == "step-00000002"
    assert [line["corrupt"] for line in training.lines(tmp_path / "run")] == [0, 0]
    away.rename(tar)
    training.run(tar, tmp_path / "run", *settings)
    training.run(tar, tmp_path / "whole", *settings)
    assert training.differing(tmp_path / "run", tmp_path / "whole") == []
    assert training.lines(tmp_path / "run") == training.lines(tmp_path / "whole")


def test_retention_counts_what_the_run_has_come_by() -> None:
    """A run that was taken back from 5 to 3; and by brute force, one save after another."""
    names = {n: f"step-{n:08d}" for n in range(20)}
    assert outlived({names[n] for n in (3, 4, 5)}, names[3], names[4], 3) == []
    assert outlived({names[n] for n in (3, 4, 5)}, names[3], names[4], 1) == [names[3]]
    assert outlived({names[n] for n in (3, 5, 7, 9)}, names[3], names[7], 2) == [names[5]]
    assert outlived({names[1]}, "", names[1], 1) == []
    rng = np.random.default_rng(0)
    for _ in range(300):
        keep, there, live = int(rng.integers(1, 4)), set(), [0]
        for _ in range(12):
            saved = live[-1] + int(rng.integers(1, 4))
            there.add(names_of(saved))
            before = names_of(live[-1]) if live[-1] else ""
            there -= set(outlived(there, before, names_of(saved), keep))
            live.append(saved)
            count = len(live) - 1
            live = [0, *(step for step in live[1:] if names_of(step) in there)]
            assert len(live) - 1 == min(keep, count)
            assert live[-1] == saved
            assert {name for name in there if name <= names_of(saved)} == set(map(names_of, live[1:]))
            if rng.random() < 0.3:
                live = live[: live.index(int(rng.choice(live[1:]))) + 1]


def names_of(step: int) -> str:
    return f"step-{step:08d}"


def test_a_checkpoint_after_a_rollback_is_not_removed_by_what_it_left_behind(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1, ALONE)
    for step in (1, 2, 3):
        checkpoints.save({"model": {"x": torch.zeros(2)}}, {"step": step})
    (tmp_path / "checkpoints" / "step-00000003").rename(tmp_path / "checkpoints" / "step-00000009")
    stop_at(tmp_path, 1)
    path = checkpoints.save({"model": {"x": torch.ones(2)}}, {"step": 2})
    assert path.is_dir()
    assert latest(tmp_path) == path
    assert {p.name for p in path.parent.iterdir()} == {"latest", "step-00000002", "step-00000009"}
