"""Vectors of a scorer in a run: duplicates by what images show, quotas, and a cut that is spread over clusters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lucidflux_data.errors import ConfigError, VerificationError
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.storage.folder import Folder
from lucidflux_model.embedding.ready import ReadyScorer
from pipelines.execution.worker import Unit
from pipelines.filter import job
from pipelines.filter.scorers import ScorerUnit
from tests.support.here import QUIET, Here, run_filter, verified

ALL = ["iqa.metric=niqe", "cut.top_fraction=1", "rules.min_side=64", "rules.min_laplacian_variance=0"]
ALL += ["rules.max_laplacian_variance=999999", "rules.max_flat_fraction=1"]
SCORER = """
import numpy as np

def embed(images):
    small = [image[::40, ::40].astype(np.float32).ravel()[:48] - 100 for image in images]
    return {"vector": np.stack(small), "bright": ["yes" if image.mean() > 110 else "no" for image in images]}

def mixed(images):
    return {"vector": [np.ones(3 + number) for number in range(len(images))]}

def endless(images):
    return {"vector": np.full((len(images), 4), 1e9)}
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path], data_command) -> Path:
    """Cuts of two photos, some of them twice with a shade more light; scored by a scorer with vectors of 48."""
    place = tmp_path_factory.mktemp("vectors")
    (place / "photos").mkdir()
    for stem in ("coffee", "chelsea"):
        photo = cv2.imread(str(next(path for path in photo_paths if path.stem == stem)))
        for number in range(5 if stem == "coffee" else 3):
            cut = photo[12 * number :][:200, 40 * number :][:, :200]
            cv2.imwrite(str(place / "photos" / f"{stem}-{number}.png"), cut)
            if number < 2:
                cv2.imwrite(str(place / "photos" / f"{stem}-{number}-again.png"), cv2.add(cut, (2, 2, 2, 0)))
    (place / "their_scores.py").write_text(SCORER)
    run_filter(place / "photos", place / "run", *ALL)
    local = ["--executor", "local", "--num-cpus", "1"]
    done = data_command("score", place / "run", "--scorer", "their_scores:embed", *local, cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "run"


def select(run: Path, *settings: str) -> dict[str, dict]:
    plain = ["semantic_duplicates=none", "quota=", "balance=none", "embedding=none"]
    base = FilterConfig.model_validate(runs.read_run(Folder(run))["config"])
    config = make_config(
        settings=["cut.top_k=none", "cut.top_fraction=1", *(f"select.{one}" for one in plain), *settings], base=base
    )
    job.select(Folder(run), config, Here(), QUIET)
    return {row["source_key"]: row for row in runs.read_ledger(Folder(run)).to_pylist()}


def vectors_of(run: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(run / "scores" / "their_scores.embed")
    assert table.schema.field("vector").type == pa.list_(pa.float16(), 48)
    return {row["uri"].rpartition("/")[2]: np.array(row["vector"], np.float64) for row in table.to_pylist()}


def test_the_best_of_what_shows_the_same_stays(scored: Path) -> None:
    vectors, rows = vectors_of(scored), select(scored, "select.semantic_duplicates=0.995")
    unit = {name: vector / np.linalg.norm(vector) for name, vector in vectors.items()}
    expected = {}
    for name in unit:  # brute force: groups by links, the lowest rank of each
        group, todo = {name}, [name]
        while todo:
            one = todo.pop()
            near = {other for other in unit if unit[one] @ unit[other] >= 0.995} - group
            group |= near
            todo += near
        expected[name] = name == min(group, key=lambda each: rows[each]["rank"])
    assert {name: row["keep"] for name, row in rows.items()} == expected
    assert sum(row["reason"] == "semantic_duplicate" for row in rows.values()) >= 4


def test_a_quota_keeps_the_best_of_each_value(scored: Path) -> None:
    rows = select(scored, "select.quota=bright=2")
    for value in {row["bright"] for row in rows.values()}:
        mine = sorted((row for row in rows.values() if row["bright"] == value), key=lambda row: row["rank"])
        assert [row["reason"] for row in mine] == [None] * min(2, len(mine)) + ["over_quota"] * (len(mine) - 2)


def test_a_balanced_cut_keeps_what_is_rare(scored: Path) -> None:
    pytest.importorskip("faiss")
    rows = select(scored, "cut.top_fraction=none", "cut.top_k=6", "select.balance=2")
    assert sum(row["keep"] for row in rows.values()) == 6
    by_reason = {row["reason"] for row in rows.values()}
    assert by_reason <= {None, "unbalanced", "low_iqa"}
    kept = [name.partition("-")[0] for name, row in rows.items() if row["keep"]]
    assert kept.count("chelsea") >= 2
    job.pack(Folder(scored), FilterConfig.model_validate(runs.read_run(Folder(scored))["config"]), Here(), QUIET)
    assert verified(scored) == 6


def test_what_is_asked_wrongly_is_told(scored: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ConfigError, match="which vectors\\? --embedding names a column of a scorer; there are: vector"):
        select(scored, "select.semantic_duplicates=0.9", "select.embedding=other")
    with pytest.raises(ConfigError, match="is not COLUMN=MAX"):
        make_config(settings=["select.quota=bright"])
    with pytest.raises(ConfigError, match="there is no cut"):
        select(scored, "iqa.metric=none", "select.balance=2")
    monkeypatch.syspath_prepend(str(scored.parent))
    decode = make_config().decode
    photo = next((scored.parent / "photos").iterdir())
    row = {"uri": f"file://{photo}", "key": "", "sha256": "", "offset": -1, "size": -1, "known": None}
    for name, sentence in (("mixed", "several sizes"), ("endless", "not finite in 16 bits")):
        with pytest.raises(ConfigError, match=sentence):
            list(ScorerUnit(decode, f"their_scores:{name}", str(scored.parent))(Unit("unit-000000", 2, [row, row])))


def test_a_ready_scorer_adds_its_vectors_and_other_weights_are_told(scored: Path, tmp_path: Path, data_command) -> None:
    transformers = pytest.importorskip("transformers")
    run = shutil.copytree(scored, tmp_path / "run")
    for number, name in enumerate(("first", "second")):
        torch.manual_seed(number)
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = transformers.SiglipVisionConfig(**sizes, image_size=32, patch_size=8)
        transformers.SiglipVisionModel(vision).save_pretrained(tmp_path / name)
        settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(settings))
    local = ["--executor", "local", "--num-cpus", "1"]
    done = data_command("score", run, "--scorer", f"siglip2={tmp_path / 'first'}", *local)
    assert done.returncode == 0, done.stderr
    assert "--semantic-duplicates COS" in done.stdout
    (folder,) = (run / "scores").glob("siglip2.*")
    table = pq.read_table(folder)
    assert table.schema.field("siglip2").type == pa.list_(pa.float16(), 16)
    scorer = ReadyScorer(f"siglip2={tmp_path / 'first'}")
    for row in table.to_pylist():
        image = cv2.imread(row["uri"].removeprefix("file://"))[:, :, ::-1]
        expected = scorer([np.ascontiguousarray(image)])["siglip2"][0].astype(np.float16)
        assert np.array_equal(np.array(row["siglip2"], np.float16), expected)
    done = data_command("score", run, "--scorer", f"siglip2={tmp_path / 'second'}", *local)
    assert done.returncode == 2
    assert f"scores/{folder.name}, which other weights of siglip2 gave" in done.stderr
    unit = ScorerUnit(make_config().decode, f"siglip2={tmp_path / 'first'}", ".")
    (tmp_path / "first" / "config.json").write_text((tmp_path / "first" / "config.json").read_text() + " ")
    with pytest.raises(VerificationError, match="has other weights on this machine"):
        list(unit(Unit("unit-000000", 0, [])))
    done = data_command("score", run, "--scorer", "siglip2=nowhere", *local)
    assert done.returncode == 2
    assert "huggingface.co/google/siglip2" in done.stderr
