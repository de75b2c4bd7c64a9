"""What was forgotten never comes back, and no selection draws from itself for ever."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from lucidflux_data.audit.forget import forget
from lucidflux_data.errors import ConfigError
from lucidflux_data.selection import decision
from lucidflux_data.selection.config import CutConfig, FilterConfig, make_config
from lucidflux_data.selection.pool import Candidates
from lucidflux_data.selection.records import CODE, KEPT, is_kept
from lucidflux_data.selection.rules import drop_near
from lucidflux_data.selection.run import parts, read_run
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from tests.support.here import QUIET, Here, run_filter, verified
from tests.support.run_files import rewrite_run

LOOSE = ["iqa.metric=none", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=999999"]
LOOSE += ["rules.max_flat_fraction=1"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forgotten")
    (root / "source").mkdir()
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
        (root / "source" / f"{seed}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    run_filter(root / "source", root / "run", *LOOSE)
    return root / "run"


@pytest.fixture
def run(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "run"))


def select(run: Path, *settings: str) -> FilterConfig:
    config = make_config(settings=settings, base=FilterConfig.model_validate(read_run(Folder(run))["config"]))
    job.select(Folder(run), config, Here(), QUIET)
    return config


def kept(run: Path) -> set[str]:
    return {row["source_key"] for row in pq.read_table(run / "selected.parquet").to_pylist() if row["keep"]}


def sha256_of(run: Path, name: str) -> str:
    rows: list[dict[str, Any]] = pq.read_table(run / "selected.parquet").to_pylist()
    return next(row["sha256"] for row in rows if row["source_key"] == name)


@pytest.mark.parametrize("lists", [["other"], [], ["other", "third"]])
def test_a_forgotten_image_stays_out_whatever_lists_come(run: Path, tmp_path: Path, lists: list[str]) -> None:
    forget(Folder(run), [sha256_of(run, "3.png")])
    for name in ("other", "third"):
        (tmp_path / name).write_text(f"{sha256_of(run, '4.png')}\n")
    opted = {"3.png", *(["4.png"] if lists else [])}
    asked = f"select.opt_out={','.join(str(tmp_path / name) for name in lists)}"
    for _ in range(2):
        config = select(run, asked)
        assert kept(run) == {f"{n}.png" for n in range(6)} - opted
        job.pack(Folder(run), config, Here(), QUIET)
        assert verified(run) == 6 - len(opted)


def test_a_combined_run_leaves_out_what_its_parts_forgot(run: Path, packed: Path, tmp_path: Path) -> None:
    forget(Folder(run), [sha256_of(run, "3.png")])
    config = FilterConfig.model_validate(read_run(Folder(packed))["config"])
    both = tmp_path / "both"
    decision.combine(Folder(both), [Folder(packed), Folder(run)], config, "lucidflux")
    job.select(Folder(both), config, Here(), QUIET)
    assert kept(both) == {f"{n}.png" for n in range(6)} - {"3.png"}


@pytest.mark.parametrize("way", ["itself", "a link", "another spelling", "by another"])
def test_a_run_does_not_include_itself(way: str, run: Path, packed: Path, tmp_path: Path) -> None:
    config = FilterConfig.model_validate(read_run(Folder(run))["config"])
    (tmp_path / "link").symlink_to(run)
    other = Path(shutil.copytree(packed, tmp_path / "other"))
    if way == "by another":
        job.include(Folder(other), [str(run)], config, Here(), QUIET)
    item = {"itself": run, "a link": tmp_path / "link", "another spelling": f"{run}/../run/.", "by another": other}[way]
    before = (run / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="cannot be included"):
        job.include(Folder(run), [str(item)], config, Here(), QUIET)
    assert (run / "run.json").read_bytes() == before


def test_a_run_that_an_earlier_version_wrote_into_itself_ends(run: Path) -> None:
    import json

    about = json.loads((run / "run.json").read_text())
    rewrite_run(run, about | {"included": [f"file://{run}"]})
    assert [part.included for part in parts(Folder(run))] == [False]
    select(run)
    assert len(kept(run)) == 6


def near(included: list[bool], groups: list[int], ranks: list[int], **cut: Any) -> list[str | None]:
    n = len(groups)
    ones = np.ones(n)
    candidates = Candidates(
        np.arange(n, dtype=np.uint64), np.zeros(n, np.uint16), np.full(n, KEPT, np.int16), np.full(n, 100, np.int32),
        ones, ones, np.array(included),
    )  # fmt: skip
    codes = np.where(included, CODE["included"], KEPT).astype(np.int16)
    found = drop_near(codes, candidates, np.array(ranks), np.array(groups), CutConfig(**cut))
    return [next((name for name, code in CODE.items() if code == value), None) for value in found]


def test_near_copies_of_included_images_under_both_cuts() -> None:
    top_k, fraction = {"top_k": 2, "top_fraction": None}, {"top_fraction": "1"}
    only_copies = ([True, False, False], [0, 0, 0], [0, 1, 2])
    two_by_hand = ([True, True, False, False], [0, 0, 0, -1], [0, 0, 1, 2])
    for cut in (top_k, fraction):
        assert near(*only_copies, **cut) == ["included", "near_duplicate", "near_duplicate"]
        assert near(*two_by_hand, **cut) == ["included", "near_duplicate", "near_duplicate", None]
    assert is_kept(np.array([KEPT, CODE["included"]])).all()
