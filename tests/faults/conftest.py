"""Photos, a pool of local processes and what undisturbed runs give; for all scenarios, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lucidflux_data.selection.config import FilterConfig, make_config
from pipelines.execution.local import LocalExecutor
from pipelines.execution.progress import Progress
from tests.support.scenarios import UNITS, WIDE, Fault, run_job, speaking_to, tree


@pytest.fixture(scope="module", autouse=True)
def _store_is_known(store: Any) -> Iterator[None]:
    with speaking_to(store):
        yield


@pytest.fixture(scope="session")
def config() -> FilterConfig:
    return make_config("demo", settings=WIDE)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """46 cuts of 200 px out of real photos, and two files that are none."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    images = [
        cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    for number in range(46):
        image = images[number % len(images)]
        top, left = (int(rng.integers(0, side - 200)) for side in image.shape[:2])
        data = cv2.imencode(".jpg", image[top : top + 200, left : left + 200])[1].tobytes()
        (folder / f"{number:02d}.jpg").write_bytes(data)
    (folder / "46.jpg").write_bytes(b"no photo")
    (folder / "47.jpg").write_bytes((folder / "03.jpg").read_bytes()[:900])
    return folder


@pytest.fixture(scope="session")
def local() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(2)
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def quiet(
    photos: Path, local: LocalExecutor, config: FilterConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The digests of an undisturbed run on one machine."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    counter = Fault(-1, lambda: None)
    run_job(f"file://{photos}", str(run), local, counter, config)
    assert counter.ended == UNITS
    local.close()  # what is started later may know other stores
    return tree(run)


@pytest.fixture(scope="session")
def bucket(store: Any, photos: Path) -> str:
    store.upload("tiny", photos)
    store.client().create_bucket(Bucket="faults")
    return "s3://tiny"


@pytest.fixture(scope="session")
def quiet_bucket(
    store: Any, bucket: str, local: LocalExecutor, config: FilterConfig, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """An undisturbed single-machine run over the uris of the bucket."""
    run = tmp_path_factory.mktemp("quiet-bucket") / "run"
    with speaking_to(store):
        run_job(bucket, str(run), local, Progress(quiet=True), config)
    local.close()
    return tree(run)
