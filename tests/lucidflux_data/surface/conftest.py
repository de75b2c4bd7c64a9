"""One small run, with every measure taken of every image, and what tests of it share."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.run import read_run
from lucidflux_data.storage.folder import Folder
from pipelines.filter import job
from tests.support.here import QUIET, Here, select_into
from tests.support.photos import write_small

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "camera", "grass", "brick", "coins", "page")
OPEN = ("rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e9", "rules.max_flat_fraction=1")


@pytest.fixture(scope="session")
def small(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine photos; of one a copy of its bytes, and a flipped, a smaller, a flat and a blurred version, whose name wants
    to be HTML; two that are no images."""
    home = tmp_path_factory.mktemp("small")
    folder = write_small(home / "photos", [path for path in photo_paths if path.stem in NAMES], 224, 160)
    coffee = cv2.imread(str(folder / "02.jpg"))
    shutil.copyfile(folder / "02.jpg", folder / "twin.jpg")
    cv2.imwrite(str(folder / "flipped.png"), coffee[:, ::-1])
    cv2.imwrite(str(folder / "smaller.png"), cv2.resize(coffee, (196, 140), interpolation=cv2.INTER_AREA))
    cv2.imwrite(str(folder / "<img src=x onerror=alert(1)>.png"), cv2.GaussianBlur(coffee, (0, 0), 2))
    cv2.imwrite(str(folder / "flat.png"), cv2.resize(coffee, (280, 240)) // 16 + 90)
    (folder / "broken.jpg").write_bytes((folder / "03.jpg").read_bytes()[:2000])
    (folder / "words.png").write_text("no image")
    (home / "suite").mkdir()
    shutil.copyfile(folder / "04.jpg", home / "suite" / "04.jpg")
    (home / "out.txt").write_text(hashlib.sha256((folder / "05.jpg").read_bytes()).hexdigest() + "\n")
    uris = [f"file://{path}" for path in sorted(folder.glob("0*.jpg"))]
    table = pa.table({"uri": uris, "aesthetic": [float(number) for number in range(9)], "licence": ["CC0"] * 9})
    pq.write_table(table, home / "labels, mine.parquet")
    return folder


@pytest.fixture(scope="session")
def measured(small: Path) -> Path:
    """A run in which every setting can be decided from what is there."""
    asked = ("rules.max_blockiness=50", "select.near_duplicates=8")
    run = select_into(small, small.parent / "run", *OPEN, *asked, "iqa.metric=niqe", "cut.top_fraction=1")
    base = FilterConfig.model_validate(read_run(Folder(str(run)))["config"])
    forbidding = make_config(settings=[f"select.forbid={small.parent / 'suite'}"], base=base)
    job.select(Folder(str(run)), forbidding, Here(), QUIET)
    return run
