"""What `verify` says of runs that an earlier version may have got wrong; none of it can be seen in a hash."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.images import luma
from lucidflux_data.measures.fingerprints import fingerprint_file
from lucidflux_data.selection import decision, records
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import read_run
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from tests.support.here import QUIET, Here, run_filter
from tests.support.paths import ROOT
from tests.support.run_files import rewrite_run

ALL = ["rules.min_side=64", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
ALL += ["rules.max_flat_fraction=1"]


@pytest.fixture(scope="module")
def encoded(photo_paths: list[Path]) -> list[bytes]:
    image = cv2.imread(str(next(path for path in photo_paths if path.stem == "coffee")))
    return [cv2.imencode(".jpg", image[top:][:200, :200])[1].tobytes() for top in (0, 40, 80)]


@pytest.fixture(scope="module")
def rows(encoded: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the rows of a Parquet file, scored by a metric."""
    base = tmp_path_factory.mktemp("rows")
    pq.write_table(pa.table({"jpg": pa.array(encoded, pa.binary())}), base / "set.parquet")
    run_filter(base / "set.parquet", base / "run", *ALL, "iqa.metric=niqe")
    return base / "run"


@pytest.fixture(scope="module")
def files(encoded: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("files")
    (base / "photos").mkdir()
    for number, data in enumerate(encoded):
        (base / "photos" / f"{number}.jpg").write_bytes(data)
    run_filter(base / "photos", base / "run", *ALL, "iqa.metric=none")
    return base / "run"


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def made_by_0_1_0(run: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    del about["version"]
    rewrite_run(run, about)


def doubts(run: Path) -> list[str]:
    found = verify_run(Folder(run), False, False, Here(), QUIET)["warnings"]
    return [sentence for sentence in found if "not recorded before this version" not in sentence]


def test_the_version_in_run_json_is_that_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == records.VERSION


def test_a_run_keeps_the_version_that_listed_it(files: Path, tmp_path: Path, monkeypatch) -> None:
    """A later version that selects and packs again has not scored; a run without a version never gets one."""
    run = copied(files, tmp_path)
    assert json.loads((run / "run.json").read_text())["version"] == (made_by := records.VERSION)
    monkeypatch.setattr(records, "VERSION", "9.9.9")

    def packed_again(max_samples: int) -> dict[str, Any]:
        base = FilterConfig.model_validate(read_run(Folder(run))["config"])
        config = make_config(settings=[f"shards.max_samples={max_samples}"], base=base)
        job.select(Folder(run), config, Here(), QUIET)
        job.pack(Folder(run), config, Here(), QUIET)
        after = json.loads((run / "run.json").read_text())
        assert after["config"]["shards"]["max_samples"] == max_samples
        return after

    assert packed_again(2)["version"] == made_by
    made_by_0_1_0(run)
    assert "version" not in packed_again(1)


def test_rows_of_parquet_that_an_earlier_version_scored(rows: Path, tmp_path: Path, data_command) -> None:
    run = copied(rows, tmp_path)
    assert doubts(run) == []
    made_by_0_1_0(run)
    (told,) = doubts(run)
    assert "3 candidates in Parquet files and scores of niqe by a version before 0.1.1" in told
    assert told.endswith("score them again into a new --out")
    done = data_command("verify", run)
    assert done.returncode == 0, done.stderr
    assert f"warning: {told}" in done.stderr
    assert "warnings: 2" in done.stdout
    assert json.loads(data_command("verify", run, "--json").stdout)["warnings"][0] == told
    shutil.rmtree(run / "scores" / "niqe")
    assert doubts(run) == [], "scores/basic, history and the firewall were read by one thread"


def test_a_selection_from_such_a_run_is_told_of(rows: Path, tmp_path: Path) -> None:
    run = copied(rows, tmp_path)
    made_by_0_1_0(run)
    config = FilterConfig.model_validate(read_run(Folder(run))["config"])
    drawn = Folder(tmp_path / "drawn")
    decision.combine(drawn, [Folder(run)], config, "lucidflux")
    job.select(drawn, config, Here(), QUIET)
    job.pack(drawn, config, Here(), QUIET)
    assert "version" in read_run(drawn)
    (told,) = doubts(Path(drawn.root))
    assert told.startswith(f"{run} has 3 candidates in Parquet files")


@pytest.mark.parametrize(("kind", "flags", "turned"), [
    ("tiff", "icc,orientation", 1), ("tiff", "orientation", 1), ("tiff", "icc", 0), ("jpeg", "orientation", 0),
])  # fmt: skip
def test_tiffs_with_an_orientation(kind: str, flags: str, turned: int, files: Path, tmp_path: Path) -> None:
    run = copied(files, tmp_path)
    place = run / "scores" / "basic" / "unit-000000.parquet"
    table = pq.read_table(place).to_pylist()
    table[1] |= {"format": kind, "flags": flags}
    pq.write_table(pa.Table.from_pylist(table, records.BASIC), place)
    assert doubts(run) == []
    made_by_0_1_0(run)
    assert [told.split(" has ")[1].split(",")[0] for told in doubts(run)] == ["1 TIFFs with an orientation"] * turned


def test_a_firewall_of_0_1_0(files: Path, encoded: list[bytes], tmp_path: Path) -> None:
    run, item = copied(files, tmp_path), "/benchmarks/RealLQ250/"
    image = cv2.imdecode(np.frombuffer(encoded[0], np.uint8), 1)
    full = fingerprint_file([("0", encoded[0], luma(image))], "RealLQ250")
    empty = fingerprint_file([], "RealLQ250")
    name = f"{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"
    (run / "firewall").mkdir()

    def check(kept: bytes | None, data: bytes) -> list[str]:
        (run / "firewall" / name).unlink(missing_ok=True)
        if kept is not None:
            (run / "firewall" / name).write_bytes(kept)
        manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
        manifest["firewall"] = {"checked": {item: hashlib.sha256(data).hexdigest()}, "not_checked": []}
        (run / "manifest.json").write_text(json.dumps(manifest | {"own_sha256": None}))
        return doubts(run)

    for kept in (full, None):
        (told,) = check(kept, full)
        assert f"was checked against {item}, by a version before 0.1.1" in told
    written_elsewhere = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(empty)), written_elsewhere, compression="gzip")
    other = written_elsewhere.getvalue().to_pybytes()
    for kept, data in ((empty, empty), (None, empty), (full, empty), (other, other)):
        (told,) = check(kept, data)
        assert f"was checked against {item}, whose fingerprint file is empty" in told
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["firewall"] |= {"measure": "firewall-0123456789abcdef", "partly_checked": {}}
    (run / "manifest.json").write_text(json.dumps(manifest | {"own_sha256": None}))
    assert doubts(run) == [], "of this version"
