"""`train --dry-run` looks at the data as the run would, and writes nothing; uris of tables; data that changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError, InputError, LucidFluxError
from lucidflux_data.storage.config import SETTINGS
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_model.samples.reading import DataChanged
from lucidflux_model.training.run_file import Claim, Data, claim_run
from lucidflux_model.training.setup import base_digest, label, open_source, split_pairs
from tests.lucidflux_model.training.test_data import stop_at
from tests.support import stock, training


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = dict(SETTINGS)
    yield
    SETTINGS.update(before)
    configure({})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.make_photos(tmp_path_factory.mktemp("photos") / "photos")


def dry(data: object, out: Path, *more: str) -> dict:
    """What a dry run says; raises what it ends with."""
    settings = [part for setting in training.SETTINGS for part in ("--set", setting)]
    call = ["train", "--data", str(data), "--out", str(out), *settings, *more, "--dry-run", "--json"]
    done = CliRunner().invoke(cli.app, call)
    if isinstance(done.exception, LucidFluxError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_would_be_trained_on_is_told_and_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    pairs, out = training.make_pairs(photos, tmp_path / "pairs"), tmp_path / "run"
    told = dry(pairs, out, "--set", "validation.fraction=0.4")
    held = told["held_out"]
    assert (told["pairs"] + held, told["size"], told["batches"]) == (12, "96x96", -(-told["pairs"] // 4))
    assert told["config"]["model"]["name"] == "tiny"
    tars = dry(pairs / "shards" / "*.tar", out, "--set", "validation.fraction=0.4")
    assert (tars["pairs"], tars["held_out"]) == (told["pairs"], held)
    online = dry(photos, out, "--set", "data.online=realesrgan-x4", "--set", "data.online_settings=size=96")
    assert online["pairs"] == 6
    assert not out.exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nothing", "is not there"),
        ("photos", "is not in a tar"),
        ("empty", "holds no tars of pairs"),
        ("run", "holds clean images, not pairs"),
        ("unfinished", "was not made to the end"),
        ("tar", "holds no pairs"),
    ],
)
def test_a_dry_run_without_pairs_is_refused(photos: Path, tmp_path: Path, what: str, words: str) -> None:
    place = tmp_path / what
    if what == "photos":
        shutil.copytree(photos, place)
    elif what == "tar":
        place = stock.write_tar(tmp_path / "a.tar", {"a": {"png": stock.png(stock.picture(0))}})
    elif what != "nothing":
        place.mkdir()
    if what in ("run", "unfinished"):
        (place / "run.json").write_text(json.dumps({"listed": {"sources": []}}))
    if what == "run":
        (place / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=words):
        dry(place, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_knows_whether_the_run_would_go_on(tmp_path: Path) -> None:
    tar, out = stock.make_tar(tmp_path / "a.tar", 8), tmp_path / "run"
    config = training.config_of()
    source = open_source(config, [str(tar)], Folder(out))
    _, held = split_pairs(config, source, new=True)
    claim_run(out, Claim(config, [str(tar)], Data.of(source, held, 0), base_digest(config), label(config), None))
    stop_at(out, 5)
    assert dry(tar, out, "--resume")["goes_on_from"] == "step-00000005"
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        dry(tar, out)
    with pytest.raises(ConfigError, match="begun with another optimizer"):
        dry(tar, out, "--resume", "--set", "optimizer=adafactor")
    stock.make_tar(tar, 8, first=40)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DataChanged, match=r"a\.tar changed"):
        dry(tar, out, "--resume")
    assert dry(tar, out, "--resume", "--data-changed")["pairs"] == 8
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="--data-changed belongs to --resume"):
        dry(tar, tmp_path / "other", "--data-changed")


def test_uris_of_tables_are_trained_on_where_that_is_allowed(photos: Path, tmp_path: Path) -> None:
    uris = sorted(str(path) for path in photos.iterdir())
    (tmp_path / "near").mkdir()
    pq.write_table(pa.table({"url": uris}), tmp_path / "near" / "t.parquet")
    online = ("--set", "data.online=realesrgan-x4", "--set", "data.online_settings=size=96")
    with pytest.raises(ConfigError, match=rf"add --allow-uris file://{photos}|add --allow-uris {photos}"):
        dry(tmp_path / "near" / "t.parquet", tmp_path / "run", *online)
    told = dry(tmp_path / "near" / "t.parquet", tmp_path / "run", *online, "--allow-uris", str(photos))
    assert told["pairs"] == 6
    assert told["config"]["storage"]["allow_uris"] == [str(photos)]
    assert "storage" not in training.config_of(f"storage.allow_uris={photos}").fixed_settings()


def test_a_suite_in_a_table_is_fingerprinted_where_that_is_allowed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "near").mkdir()
    pq.write_table(pa.table({"url": sorted(map(str, photos.iterdir()))}), tmp_path / "near" / "t.parquet")
    call = ["fingerprint", str(tmp_path / "near"), "--name", "mine", "--out", str(tmp_path / "mine.parquet"), "--json"]
    refused = CliRunner().invoke(cli.data_app, call)
    assert isinstance(refused.exception, ConfigError)
    done = CliRunner().invoke(cli.data_app, [*call, "--allow-uris", str(photos)])
    assert json.loads(done.stdout)["images"] == 6
