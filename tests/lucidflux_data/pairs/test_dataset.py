"""RealESRGANPairs: settings by name, what is no clean image, uris of tables, and rows that are columns."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

from lucidflux_data.errors import ConfigError, InputError  # noqa: E402
from lucidflux_data.pairs.dataset import CleanRows, RealESRGANPairs  # noqa: E402
from lucidflux_data.storage.config import SETTINGS  # noqa: E402
from lucidflux_data.storage.folder import configure  # noqa: E402
from tests.support import training  # noqa: E402
from tests.support.odd_sources import header_offset, tar_bytes  # noqa: E402


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = dict(SETTINGS)
    configure({"sources": (), "allow_uris": ()})
    yield
    SETTINGS.update(before)
    configure({})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.make_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.make_pairs(photos, tmp_path_factory.mktemp("pairs") / "pairs", "variants=1")


def test_settings_by_name_in_a_dict_or_as_text_are_the_same(photos: Path) -> None:
    listed = RealESRGANPairs(photos, settings=["size=128", "first.sigma=0.2,1.5", "second=none"])
    by_name = RealESRGANPairs(photos, size=128, first={"sigma": (0.2, 1.5)}, second=None)
    as_dict = RealESRGANPairs(photos, settings={"size": 128, "first.sigma": [0.2, 1.5], "second": None})
    assert listed.config == by_name.config == as_dict.config
    assert RealESRGANPairs(photos, settings="size=128").config.size == 128
    assert RealESRGANPairs(photos, "lucidflux", size=128, sharpen_hq="none").config.sharpen_hq == "none"
    item = by_name[0]
    assert item["hq"].shape == (3, 128, 128)
    assert torch.equal(item["lq"], listed[0]["lq"])
    with pytest.raises(ConfigError, match="there is no setting sizes"):
        RealESRGANPairs(photos, sizes=128)
    with pytest.raises(ConfigError, match="size"):
        RealESRGANPairs(photos, size="large")


def test_folders_of_ours_that_are_no_clean_images(photos: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds pairs, not clean images"):
        RealESRGANPairs(pairs, size=96)
    with pytest.raises(InputError, match="holds pairs, not clean images"):
        RealESRGANPairs([photos, pairs], size=96)
    half = shutil.copytree(pairs, tmp_path / "half")
    (half / "manifest.json").unlink()
    with pytest.raises(InputError, match="holds pairs, not clean images"):
        RealESRGANPairs(half, size=96)
    for name, about, words in (
        ("restored", {"kind": "restored images"}, "is a folder of the kind restored images"),
        ("run", {"listed": {"sources": []}}, r"has no manifest\.json: `lucidflux-data pack`"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(about))
        with pytest.raises(InputError, match=words):
            RealESRGANPairs(tmp_path / name, size=96)
    with pytest.raises(InputError, match="give it alone, or other sources"):
        RealESRGANPairs([tmp_path / "run", photos], size=96)


def test_a_manifest_of_the_users_own_is_no_run(photos: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(photos, tmp_path / "mine")
    (mine / "manifest.json").write_text('{"name": "a web app"}')
    assert len(RealESRGANPairs(mine, size=96)) == 6


def test_uris_of_tables_are_read_where_that_is_allowed(photos: Path, tmp_path: Path) -> None:
    uris = sorted(str(path) for path in photos.iterdir())
    (tmp_path / "near").mkdir()
    shutil.copy(uris[0], tmp_path / "near")
    pq.write_table(pa.table({"url": uris[1:]}), tmp_path / "near" / "t.parquet")
    with pytest.raises(ConfigError, match="--allow-uris"):
        RealESRGANPairs(tmp_path / "near", size=96)
    allowed = RealESRGANPairs(tmp_path / "near", size=96, allow_uris=[str(photos)])
    assert len(allowed) == 6
    whole = RealESRGANPairs(photos, size=96)
    assert np.array_equal(allowed.pair(3, 1)[0], whole.pair(3, 1)[0])
    sent = pickle.dumps(allowed.rows)
    configure({"allow_uris": ()})  # as in a process that was spawned
    assert allowed.pair(3, 1)[0].shape == (96, 96, 3)
    assert pickle.loads(sent)[3] == allowed.rows[3]
    with pytest.raises(ConfigError, match="is no prefix of a uri"):
        RealESRGANPairs(photos, size=96, allow_uris=["photos"])


def test_what_could_not_be_listed_as_a_whole_is_in_warnings(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "in"
    shutil.copytree(photos, place)
    assert RealESRGANPairs(place, size=96).warnings == []
    data = tar_bytes([(path.name, path.read_bytes()) for path in sorted(photos.iterdir())])
    (place / "cut.tar").write_bytes(data[: header_offset(data, 3) + 700])
    (place / "packed.tgz").write_bytes(b"\x1f\x8b")
    (place / "torn.parquet").write_bytes(b"PAR1")
    found = RealESRGANPairs(place, size=96)
    assert len(found) == 6, "of the tar the same images, once"
    cut, packed, torn = sorted(found.warnings, key=lambda told: told.rpartition(f"{place}/")[2])
    assert "cut.tar is damaged or breaks off; what can be read of it is used" in cut
    assert "packed.tgz is a packed tar" in packed
    assert "torn.parquet is damaged" in torn
    names = {f"cut.tar#{stem}": "duplicate" for stem in ("astronaut.png", "chelsea.png", "coffee.png")}
    assert found.skipped == names | {"cut.tar#hubble_deep_field.jpg": "truncated"}


def test_rows_are_what_they_were(tmp_path: Path) -> None:
    uris = ["file:///a/b.tar#x/y.jpg", "file:///a/b.tar#z.jpg", "s3://b/c d.png", "file:///t.parquet#17", "plain"]
    columns = {
        "uri": uris,
        "offset": [512, 1 << 40, -1, -1, -1],
        "size": [7, 8, 9, -1, 1],
        "crc32": pa.array([1, None, 4_000_000_000, None, 0], pa.uint32()),
        "key": [f"{i:020x}" for i in range(5)],
        "group": ["g", None, "g", None, "h"],
    }
    table = pa.table(columns)
    rows = CleanRows(table)
    assert list(rows) == table.to_pylist()
    assert [rows[i] for i in range(-5, 5)] == table.to_pylist() * 2
    with pytest.raises(IndexError):
        rows[5]
