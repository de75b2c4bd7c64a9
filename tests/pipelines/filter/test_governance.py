"""Tags that are taken out, images that are forgotten: what is in the shards afterwards, and in pairs made of them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lucidflux_data.audit.forget import forget_pairs
from lucidflux_data.errors import InputError
from lucidflux_data.images import EXTENSION_OF, decode_full
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import read_run
from lucidflux_data.shards.stripping import STRIP_VERSION
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from pipelines.synthesis.verify import verify_pairs
from tests.support.here import QUIET, Here, run_filter, run_synthesize, verified

LOCAL = ["--executor", "local", "--num-cpus", "1"]
WIDE = ["iqa.metric=none", "rules.min_laplacian_variance=1", "rules.max_flat_fraction=1"]
GPS, ARTIST, COPYRIGHT, ORIENTATION = 0x8825, 0x013B, 0x8298, 0x0112


def tagged(pixels: np.ndarray, artist: str | None) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION], tags[COPYRIGHT] = 6, "CC BY 4.0"
    if artist is not None:
        tags[ARTIST] = artist
        tags.get_ifd(GPS)[1] = "N"
        tags.get_ifd(GPS)[2] = (48.0, 51.0, 29.0)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=tags.tobytes(), quality=95, subsampling=0)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Nine cuts with a place and an author, one of them twice with two authors, two without tags."""
    folder = tmp_path_factory.mktemp("tagged")
    sources = [path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee")]
    images = [cv2.imread(str(path))[..., ::-1] for path in sources]
    for number in range(9):
        pixels = np.ascontiguousarray(images[number % 3][20 * number :][:200, 10 * number :][:, :200])
        (folder / f"{number}.jpg").write_bytes(tagged(pixels, f"Person {number}"))
        if number == 4:
            (folder / "4-again.jpg").write_bytes(tagged(pixels, "Somebody else"))
    for name, top in (("plain.png", 100), ("scan.bmp", 130)):
        kind = Path(name).suffix
        (folder / name).write_bytes(cv2.imencode(kind, images[0][top : top + 200, 100:300])[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("packed") / "run"
    run_filter(photos, run, *WIDE, "shards.max_samples=4")
    return run


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for tar in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(tar) as file:
            found |= {member.name: file.extractfile(member).read() for member in file}
    return found


def shard_digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "shards").iterdir()}


@pytest.fixture(scope="module")
def stripped(packed: Path, data_command) -> tuple[dict[str, bytes], Path]:
    """(members before, the run packed again without places and authors)."""
    before = members(packed)
    config, shards_before = (packed / "run.json").read_bytes(), shard_digests(packed)
    for command in (["pack", packed, "--strip", "gps"], ["pack", packed, "--strip", "gps", "--dry-run"]):
        refused = data_command(*command, *LOCAL)
        assert refused.returncode == 2, refused.stderr
        assert "the ledger keeps 1 bmp: --strip-unsupported keep" in refused.stderr
    assert ((packed / "run.json").read_bytes(), shard_digests(packed)) == (config, shards_before), "nothing was touched"
    done = data_command("pack", packed, "--strip", "gps,author", "--strip-unsupported", "keep", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert "stripped: gps, author of 10 images, which have other bytes and keys now" in done.stdout
    assert "1 bmp: packed as they are" in done.stdout
    card = json.loads((packed / "manifest.json").read_text())["stripped"]
    assert (card["version"], card["images"], card["not_looked_into"]) == (STRIP_VERSION, 10, {"bmp": 1})
    return before, packed


def test_stripping_changes_bytes_and_key_and_not_a_pixel(stripped: tuple[dict[str, bytes], Path], data_command) -> None:
    before, run = stripped
    after = members(run)
    assert verified(run) > 0
    ledger = {row["key"]: row for row in pq.read_table(run / "selected.parquet").to_pylist()}
    mapping = {row["key"]: row for row in pq.read_table(run / "stripped.parquet").to_pylist()}
    assert len(mapping) == 10
    assert len({row["packed_key"] for row in mapping.values()}) == 9, "4.jpg and 4-again.jpg are one image now"
    assert len(after) == 2 * 11
    for key, row in ledger.items():
        name = f"{key}.{EXTENSION_OF[row['format']]}"
        old = before[name]
        if row["source_key"] in ("plain.png", "scan.bmp"):
            assert after[name] == old
            continue
        new_key = mapping[key]["packed_key"]
        data, record = after[f"{new_key}.jpg"], json.loads(after[f"{new_key}.json"])
        assert hashlib.sha256(data).hexdigest()[:20] == new_key != key
        assert (record["key"], record["bytes"], record["stripped"]) == (new_key, len(data), ["gps", "author"])
        assert len(data) == mapping[key]["packed_bytes"]
        tags = Image.open(io.BytesIO(data)).getexif()
        assert GPS not in tags
        assert dict(tags) == {ORIENTATION: 6}
        assert np.array_equal(decode_full(old).pixels, decode_full(data).pixels)
    everything = b"".join(after.values())
    assert b"Person" not in everything
    assert not any(key.encode() in everything for key in mapping), "the old names are not given away"


def test_formats_that_are_not_looked_into_can_be_left_out(stripped, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    shutil.copytree(stripped[1], run)
    done = data_command("pack", run, "--strip", "gps", "--strip-unsupported", "drop", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert "1 bmp: left out" in done.stdout
    after = members(run)
    assert len(after) == 2 * 10
    assert not any(name.endswith(".bmp") for name in after)
    assert verified(run) == 10
    notices = [Image.open(io.BytesIO(data)).getexif() for name, data in after.items() if name.endswith(".jpg")]
    assert [dict(tags) for tags in notices] == [{ORIENTATION: 6, COPYRIGHT: "CC BY 4.0"}] * 9
    pairs = tmp_path / "pairs"
    run_synthesize(run, pairs, "degrade.size=128", "variants=1")
    assert verified(pairs) == 10
    (scan,) = {r["key"] for r in pq.read_table(run / "selected.parquet").to_pylist() if r["source_key"] == "scan.bmp"}
    done = data_command("forget", run, scan, "--json")
    assert done.returncode == 0, done.stderr
    assert verified(run) == 10


@pytest.mark.parametrize("manifest", [True, False])
def test_what_another_version_stripped_is_not_gone_on_with(
    stripped, tmp_path: Path, data_command, manifest: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stripped[1], run)
    card = json.loads((run / "manifest.json").read_text())
    old = 3 if manifest else 1
    card["stripped"]["version"] = old
    (run / "manifest.json").write_text(json.dumps(card | {"own_sha256": None}))
    if manifest:
        (run / "stripped.parquet").unlink()
    else:
        (run / "manifest.json").unlink()
        table = pq.read_table(run / "stripped.parquet")
        pq.write_table(table.replace_schema_metadata({"made_of": "0"}), run / "stripped.parquet")
    before = shard_digests(run)
    for command in (["pack", run, "--executor", "local"], ["verify", run, "--repair"]):
        refused = data_command(*command)
        assert refused.returncode == 2, refused.stderr
        assert f"by version {old} of --strip, and this is version {STRIP_VERSION}" in refused.stderr
    assert shard_digests(run) == before
    for name in ("manifest.json", "stripped.parquet"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "shards")
    assert data_command("pack", run, *LOCAL).returncode == 0
    assert shard_digests(run) == shard_digests(stripped[1])


def test_a_stripped_run_gives_pairs_is_explained_and_forgets(
    stripped: tuple[dict[str, bytes], Path], tmp_path: Path, data_command
) -> None:
    run = stripped[1]
    pairs = tmp_path / "pairs"
    run_synthesize(run, pairs, "degrade.size=128", "variants=1")
    keys = {name.partition(".")[0] for name in members(run)}
    assert {name[:20] for name in members(pairs)} == keys
    assert verified(pairs) > 0
    mapping = {row["key"]: row["packed_key"] for row in pq.read_table(run / "stripped.parquet").to_pylist()}
    (twin,) = {key for key in mapping.values() if list(mapping.values()).count(key) == 2}
    said = data_command("explain", run, twin)
    assert said.returncode == 0, said.stderr
    assert "4.jpg" in said.stdout or "4-again.jpg" in said.stdout
    done = data_command("forget", run, twin, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["shards_rewritten"]) == 1
    out = {r["source_key"] for r in pq.read_table(run / "selected.parquet").to_pylist() if r["reason"] == "opted_out"}
    assert out == {"4.jpg", "4-again.jpg"}, "the same picture under another author goes too"
    assert twin not in {name.partition(".")[0] for name in members(run)}
    assert verified(run) > 0
    base = FilterConfig.model_validate(read_run(Folder(run))["config"])
    job.pack(Folder(run), make_config(settings=["shards.strip="], base=base), Here(), QUIET)
    assert not (run / "stripped.parquet").exists()
    assert {name.partition(".")[0] for name in members(run)} == {
        row["key"] for row in pq.read_table(run / "selected.parquet").to_pylist() if row["keep"]
    }
    assert verified(run) > 0


def test_pairs_forget_an_image_and_do_not_make_it_again(photos: Path, tmp_path: Path, data_command) -> None:
    pairs = tmp_path / "pairs"
    settings = ["degrade.size=128", "variants=2", "shards.max_samples=8"]
    run_synthesize(photos, pairs, *settings)
    before = shard_digests(pairs)
    assert len(before) == 2 * 3
    (pairs / "view.html").write_text("with pixels")
    sha256 = hashlib.sha256((photos / "3.jpg").read_bytes()).hexdigest()
    done = data_command("forget", pairs, sha256, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["forgotten"] == 1
    (tar,) = told["shards_rewritten"]
    after = shard_digests(pairs)
    assert {name for name in before if after[name] != before[name]} == {tar, tar.replace(".tar", ".index.parquet")}
    assert sha256[:20].encode() not in b"".join(path.read_bytes() for path in (pairs / "shards").iterdir())
    assert not (pairs / "view.html").exists()
    assert verified(pairs) > 0
    assert run_synthesize(photos, pairs, *settings)["rejected"] == {"opted_out": 1}
    assert shard_digests(pairs) == after, "a repeated synthesize neither brings it back nor moves another"
    (pairs / "shards" / tar).unlink()
    verify_pairs(Folder(pairs), False, True, Here(), QUIET)
    assert shard_digests(pairs) == after, "nor does a repair"
    (tmp_path / "list.txt").write_text(f"# by mail\n{'0' * 64}\nfile://{photos}/5.jpg\n")
    done = data_command("forget", pairs, "--opt-out", tmp_path / "list.txt", "--json")
    assert json.loads(done.stdout)["forgotten"] == 1, done.stderr
    assert verified(pairs) > 0
    unknown = data_command("forget", pairs, "0" * 64)
    assert unknown.returncode == 3
    assert "is the sha256 or key of no source image" in unknown.stderr
    with pytest.raises(InputError):
        forget_pairs(Folder(pairs), ["3.jpg"])
