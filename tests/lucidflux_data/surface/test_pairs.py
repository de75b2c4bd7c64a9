"""Pairs: what the tars hold, by place, as a torch Dataset and as a stream that is split over readers."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from lucidflux_data import Pairs, Run  # noqa: E402
from lucidflux_data.errors import ConfigError, InputError, VerificationError  # noqa: E402
from lucidflux_data.pairs.pair import Pair  # noqa: E402
from lucidflux_data.publish.card import write_card  # noqa: E402
from lucidflux_data.storage.folder import Folder  # noqa: E402
from lucidflux_data.surface import stored as stored_pairs  # noqa: E402
from tests.support.here import run_synthesize  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402


@pytest.fixture(scope="module")
def folder(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants of each photo that is large enough, in several shards."""
    place = tmp_path_factory.mktemp("pairs") / "pairs"
    run_synthesize(small, place, "degrade.size=128", "variants=2", "shards.max_samples=8")
    return place


@pytest.fixture(scope="module")
def stored(folder: Path) -> dict[str, dict[str, bytes]]:
    """The members of every sample, read by Python's own tarfile, in the order of the tars."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                found.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return found


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_pair_is_what_its_tar_holds(
    folder: Path, stored: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs(folder)
    assert len(pairs) == len(stored) > 20
    assert len(pairs.shards) > 2
    found = list(pairs)
    assert [pair.key for pair in found] == list(stored)
    for pair in (found[0], found[8], found[-1], pairs[-1], pairs[np.int64(5)]):
        assert isinstance(pair, Pair)
        assert pair.members == stored[pair.key]
        assert np.array_equal(pair.hq, pixels(stored[pair.key]["hq.png"]))
        assert np.array_equal(pair.lq, pixels(stored[pair.key]["lq.png"]))
    with pytest.raises(IndexError):
        pairs[len(stored)]
    with pytest.raises(ConfigError, match="by its place, a whole number, not by 'abc'"):
        pairs["abc"]  # type: ignore[index]
    assert pickle.loads(pickle.dumps(pairs))[3].members == found[3].members
    monkeypatch.setattr(stored_pairs, "KEPT_INDICES", 2)
    few = Pairs(folder)
    places = [number * 5 % len(few) for number in range(len(few))]
    assert [few[place].key for place in places] == [found[place].key for place in places]


def as_told(item: dict[str, object]) -> tuple[object, ...]:
    return item["key"], item["variant"], item["hq"].numpy().tobytes(), item["lq"].numpy().tobytes()


def expected(stored: dict[str, dict[str, bytes]]) -> list[tuple[object, ...]]:
    told = []
    for key, members in stored.items():
        planes = [pixels(members[name]).transpose(2, 0, 1).tobytes() for name in ("hq.png", "lq.png")]
        told.append((*key.rsplit("_", 1)[:1], int(key[-2:]), *planes))
    return told


def test_the_dataset_and_the_stream_give_every_pair_once(folder: Path, stored: dict[str, dict[str, bytes]]) -> None:
    pairs, wanted = Pairs(folder), expected(stored)
    loader = torch.utils.data.DataLoader(pairs.dataset(), batch_size=None, num_workers=1)
    assert [as_told(item) for item in loader] == wanted
    assert [as_told(item) for item in pairs.webdataset()] == wanted
    shuffled = [[as_told(item) for item in pairs.webdataset(shuffle=20, seed=seed)] for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert all(sorted(some) == sorted(wanted) != some for some in shuffled)


def test_a_stream_is_split_by_node_and_worker(
    folder: Path, stored: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs(folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("NUM_WORKERS", "1")
    monkeypatch.setenv("WORKER", "0")
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        shares.append([as_told(item)[:2] for item in pairs.webdataset()])
    assert all(shares)
    assert sorted([*shares[0], *shares[1]]) == sorted(told[:2] for told in expected(stored))
    monkeypatch.setenv("NUM_WORKERS", "9")
    with pytest.raises(ConfigError, match=r"shards cannot be split over 2 nodes with 9 workers each"):
        next(iter(pairs.webdataset()))


def test_without_torch_a_pair_is_read_and_the_rest_says_what_is_missing(folder: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None  # as where it is not installed
from lucidflux_data import Pairs
from lucidflux_data.errors import ConfigError
pairs = Pairs({str(folder)!r})
assert pairs[0].hq.shape == (128, 128, 3)
for ask in (pairs.dataset, pairs.webdataset):
    try:
        ask()
    except ConfigError as error:
        print(error)
try:
    from lucidflux_data import RealESRGANPairs
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    missing = "torch is not installed: pip install 'lucidflux[model]'"
    assert done.stdout.splitlines()[:2] == [missing, missing], done.stderr
    assert done.stdout.splitlines()[2] == "RealESRGANPairs needs torch: pip install 'lucidflux[model]'"


def test_pairs_whose_hq_are_pointers_are_read_from_their_source(small: Path, tmp_path: Path) -> None:
    run_synthesize(small, tmp_path / "ref", "degrade.size=128", "variants=1", "hq=ref")
    run_synthesize(small, tmp_path / "png", "degrade.size=128", "variants=1")
    for pointed, plain in zip(Pairs(tmp_path / "ref").webdataset(), Pairs(tmp_path / "png").webdataset(), strict=True):
        assert as_told(pointed) == as_told(plain)


def test_what_is_no_folder_of_pairs_is_a_sentence(folder: Path, measured: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a run of the filter, not a folder of pairs"):
        Pairs(measured)
    with pytest.raises(InputError, match="is not a run folder"):
        Pairs(small)
    with pytest.raises(InputError, match="it holds pairs"):
        Run(folder)
    shutil.copytree(folder, tmp_path / "pairs")
    tar = next((tmp_path / "pairs" / "shards").glob("*-000000.tar"))
    data = bytearray(tar.read_bytes())
    data[600] ^= 255
    tar.write_bytes(data)
    with pytest.raises(InputError, match="has changed: it is damaged"):
        Pairs(tmp_path / "pairs")[0]
    (tmp_path / "pairs" / "manifest.json").unlink()
    with pytest.raises(VerificationError, match=r"has no manifest.json"):
        Pairs(tmp_path / "pairs")


def test_the_card_is_the_one_that_the_command_writes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set")
    pairs = Pairs(tmp_path / "set")
    card = pairs.card(name="Mine <b>", repository="me/mine")
    assert not (tmp_path / "set" / "README.md").exists()
    write_card(Folder(tmp_path / "set"), "Mine <b>", None, "me/mine", False)
    assert (tmp_path / "set" / "README.md").read_text() == card == card._repr_markdown_()
    assert pairs.info()["samples"] == len(pairs)


def test_a_notebook_shows_pairs_and_hostile_labels_as_text(folder: Path, tmp_path: Path) -> None:
    page = Pairs(folder)._repr_html_()
    assert page.count("data:image/jpeg;base64,") == 6
    assert len(page) < 100_000
    shutil.copytree(folder, tmp_path / "<script>alert(1)<")
    about = json.loads((tmp_path / "<script>alert(1)<" / "run.json").read_text())
    about.pop("own_sha256")
    about["label"] = "<script>alert(2)</script>"
    (tmp_path / "<script>alert(1)<" / "run.json").write_text(json.dumps(about))
    hostile = Pairs(tmp_path / "<script>alert(1)<")._repr_html_()
    assert "<script" not in hostile
    assert "&lt;script&gt;alert(1)&lt;" in hostile
    assert "&lt;script&gt;alert(2)&lt;" in hostile
