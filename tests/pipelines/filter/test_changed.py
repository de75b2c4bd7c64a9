"""A row whose bytes change between the measures and the metric is a named failure, never another picture's score."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit.report import make_report
from lucidflux_data.errors import ImageError, InputError
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.config import make_pairs_config
from lucidflux_data.pairs.dataset import RealESRGANPairs
from lucidflux_data.pairs.replay import replay_pair
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.sources import parquet as parquet_source
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder, absolute_url
from pipelines.filter import job
from pipelines.filter.score import score_basic
from pipelines.synthesis import job as synthesis
from tests.support.here import QUIET, Here, run_filter, run_synthesize, verified


@pytest.mark.parametrize("threads", [0, 4])
def test_a_changed_row_is_named(threads: int, photo_paths: list[Path], tmp_path: Path) -> None:
    photos = [path.read_bytes() for path in photo_paths[:6]]
    table = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": pa.array(photos, pa.binary())}), table)
    rules = ("rules.min_laplacian_variance=0", "rules.max_flat_fraction=1", "cut.top_fraction=1")
    config = make_config("demo", settings=(*rules, f"workers.decode_threads={threads}"))
    folder = Folder(str(tmp_path / "run"))
    source = [absolute_url(str(table))]
    job.list_into(folder, source, config, "demo", None, ("score", "select", "pack"), QUIET)
    score_basic(folder, config, Here(), QUIET)
    parquet_source._cursor.cache_clear()  # the next phase may be another process
    photos[1], photos[2] = photos[2], photos[1]
    pq.write_table(pa.table({"image": pa.array(photos, pa.binary())}), table)
    job.select(folder, config, Here(), QUIET)
    ledger = folder.read_table("selected.parquet").to_pylist()
    changed = {row["uri"].rpartition("#")[2] for row in ledger if row["reason"] == "changed"}
    measured = {row["uri"].rpartition("#")[2] for row in ledger if row["niqe"] is not None}
    assert changed == {"1", "2"}
    assert measured == {"0", "3", "4", "5"}


def test_pairs_on_line_are_never_of_another_picture(photo_paths: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(photo_paths[:2]):
        (tmp_path / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    pairs = RealESRGANPairs(str(tmp_path), "realesrgan-x4", 0, settings=["size=128"])
    assert len(pairs) == 2
    assert pairs[0]["hq"].shape[0] == 3
    first = Path(pairs.rows[0]["uri"].removeprefix("file://"))
    other = Path(pairs.rows[1]["uri"].removeprefix("file://"))
    first.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="has changed"):
        pairs[0]


def test_a_clean_image_that_changes_before_synthesis_is_a_named_failure(
    photo_paths: list[Path], tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "pairs"
    photos.mkdir()
    for number, path in enumerate(photo_paths[:3]):
        (photos / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    config = make_pairs_config("realesrgan-x4", settings=["degrade.size=128", "variants=1"])
    about = pairs_run.make_run(config, "pairs", "cv2", [absolute_url(str(photos))], None)
    pairs_run.start(Folder(str(out)), about)
    synthesis.list_inputs(Folder(str(out)), about["sources"], config, None, Here(), QUIET)
    first, second, _ = sorted(photos.iterdir())
    key = hashlib.sha256(first.read_bytes()).hexdigest()[:20]
    first.write_bytes(second.read_bytes())
    summary = synthesis.synthesize(Folder(str(out)), about, Here(), QUIET)
    assert (summary["candidates"], summary["used"], summary["failed"]) == (3, 2, {"changed": 1})
    keys = {row["key"] for row in pq.read_table(out / "shards" / "pairs-000000.index.parquet").to_pylist()}
    assert len(keys) == 2
    assert not any(name.startswith(key) for name in keys)
    assert verified(out) == 2


def test_a_damaged_member_is_not_replayed(photo_paths: list[Path], tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "pairs"
    photos.mkdir()
    (photos / photo_paths[0].name).write_bytes(photo_paths[0].read_bytes())
    run_synthesize(photos, out, "degrade.size=128", "variants=1")
    rows = pq.read_table(out / "shards" / "pairs-000000.index.parquet").to_pylist()
    (row,) = [row for row in rows if row["member"].endswith(".lq.png")]
    tar = out / "shards" / "pairs-000000.tar"
    data = bytearray(tar.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    tar.write_bytes(data)
    with pytest.raises(InputError, match=r"_00\.lq\.png of .* has changed"):
        replay_pair(Folder(str(out)), row["key"])


def test_the_page_shows_no_other_picture(photo_paths: list[Path], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(photo_paths[:2]):
        (photos / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    run_filter(
        photos, tmp_path / "run", "rules.min_laplacian_variance=0", "rules.max_flat_fraction=1", "iqa.metric=none"
    )
    folder = Folder(str(tmp_path / "run"))
    before = make_report(folder).count(b"no picture")
    first, second = sorted(photos.iterdir())
    first.write_bytes(second.read_bytes())
    assert make_report(folder).count(b"no picture") > before


@pytest.mark.parametrize("known", ["sha256", "crc32"])
def test_known_bytes(known: str, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"those")
    told = {"sha256": hashlib.sha256(b"those").hexdigest()[:20], "crc32": zlib.crc32(b"those")}[known]
    assert read_known(f"file://{file}", **{known: told}) == b"those"
    file.write_bytes(b"other")
    with pytest.raises(ImageError, match="changed"):
        read_known(f"file://{file}", **{known: told})


def written_again(tar: Path, contents: dict[str, bytes]) -> None:
    """Another tar in the place of this one, as a command that rewrites a shard leaves it."""
    with tarfile.open(tar.with_suffix(".new"), "w") as file:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    tar.with_suffix(".new").replace(tar)


SHIFTED, SHORTER, SAME_PLACE = "shifted", "shorter", "same place"


def other_photos(photos: dict[str, bytes], how: str) -> dict[str, bytes]:
    """The same names with other members in their places: moved by a new first one, fewer, or of the same length."""
    if how == SHIFTED:
        return {"0.txt": bytes(777), **photos}
    if how == SHORTER:
        return dict(list(photos.items())[:1])
    return {name: data[:-1] + bytes([data[-1] ^ 1]) for name, data in photos.items()}


@pytest.fixture
def tar(photo_paths: list[Path], tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    photos = {f"{number}{path.suffix}": path.read_bytes() for number, path in enumerate(photo_paths[:3])}
    written_again(tmp_path / "photos.tar", photos)
    return tmp_path / "photos.tar", photos


def begun(source: Path, run: Path) -> tuple[Folder, FilterConfig]:
    rules = ("rules.min_laplacian_variance=0", "rules.max_flat_fraction=1", "cut.top_fraction=1")
    config, folder = make_config("demo", settings=rules), Folder(str(run))
    job.list_into(folder, [absolute_url(str(source))], config, "demo", None, ("score", "select", "pack"), QUIET)
    return folder, config


@pytest.mark.parametrize("how", [SHIFTED, SHORTER, SAME_PLACE])
@pytest.mark.parametrize("after", ["list", "measures", "metric"])
def test_a_tar_that_is_written_again_between_two_steps_has_changed(how: str, after: str, tar, tmp_path: Path) -> None:
    """Every reader of `filter`: what was only listed is told by the header before a member, later by its sha256."""
    file, photos = tar
    folder, config = begun(file, tmp_path / "run")
    if after != "list":
        score_basic(folder, config, Here(), QUIET)
    if after == "metric":
        job.select(folder, config, Here(), QUIET)
    written_again(file, other_photos(photos, how))
    if after == "metric":
        with pytest.raises(InputError, match="has changed since it was scored"):
            job.pack(folder, config, Here(), QUIET)
        return
    if after == "list":
        score_basic(folder, config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    reasons = [row["reason"] for row in folder.read_table("selected.parquet").to_pylist()]
    if (how, after) == (SAME_PLACE, "list"):
        return  # nobody had read the first ones: these are the photos
    if how == SHORTER:
        assert reasons.count("changed") == 2
    else:
        assert reasons == ["changed"] * 3


@pytest.mark.parametrize("how", [SHIFTED, SHORTER, SAME_PLACE])
def test_pairs_of_a_tar_that_is_written_again(how: str, tar, tmp_path: Path) -> None:
    """`synthesize`, replay of a pointer, and pairs that are made as they are read."""
    file, photos = tar
    settings = ("degrade.size=128", "variants=1", "hq=ref")
    run_synthesize(file, tmp_path / "pairs", *settings)
    keys = pq.read_table(tmp_path / "pairs" / "shards" / "pairs-000000.index.parquet")["key"].to_pylist()
    online = RealESRGANPairs(str(file), "realesrgan-x4", 0, settings=["size=128"])
    config = make_pairs_config("realesrgan-x4", settings=list(settings))
    late = Folder(str(tmp_path / "late"))
    about = pairs_run.make_run(config, "pairs", "cv2", [absolute_url(str(file))], None)
    pairs_run.start(late, about)
    synthesis.list_inputs(late, about["sources"], config, None, Here(), QUIET)
    written_again(file, other_photos(photos, how))
    lost = 2 if how == SHORTER else 3
    found = [outcome(lambda number=number: online[number]) for number in range(3)]
    assert found.count("changed") == lost, found
    found = [outcome(lambda key=key: replay_pair(Folder(str(tmp_path / "pairs")), key)) for key in sorted(set(keys))]
    assert found.count("changed") == lost, found
    assert synthesis.synthesize(late, about, Here(), QUIET)["failed"] == {"changed": lost}


def outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except InputError as error:
        return "changed" if "has changed" in str(error) else str(error)
    return "read"
