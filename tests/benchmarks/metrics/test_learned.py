"""Learned metrics from random weights in the real files and folders: what loads, what it scores, what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy import linalg

from benchmarks.metrics import doctor
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import load_profile, profile_of_metrics
from benchmarks.suites import suite as suites
from lucidflux_data.images import decode
from lucidflux_data.iqa import fidelity, pyiqa_models
from lucidflux_data.iqa.pins import REVISIONS
from lucidflux_data.iqa.weight_files import REPOSITORY_FILES, WEIGHTS, location
from tests.support.paths import ROOT
from tests.support.random_weights import SHARDS, environment, trust

pytest.importorskip("pyiqa")


LEARNED = ("clipiqa+", "qalign")  # a second an image; maniqa takes a minute and more on a CPU
# In a process of its own: writes the weights, and scores the images as pyiqa alone does.
ORACLE = """
import hashlib, json, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from tests.support import random_weights
from lucidflux_data.iqa.pyiqa_models import _mend_qalign
folder, images = Path(sys.argv[1]), sys.argv[2:]
random_weights.write(folder, ("clipiqa+", "qalign", "fid"))
import pyiqa
from pyiqa.archs import clip_model
digits = hashlib.sha256((folder / "torch/hub/clip/RN50.pt").read_bytes()).hexdigest()
clip_model._MODELS["RN50"] = f"https://example.org/{digits}/RN50.pt"
_mend_qalign()
scores = {}
for name in ("clipiqa+", "qalign"):
    metric = pyiqa.create_metric(name, device="cpu")
    scores[name] = [metric(image).item() for image in images]
print(json.dumps(scores))
"""


@pytest.fixture(scope="module")
def outputs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods of two images."""
    root = tmp_path_factory.mktemp("outputs")
    for method in ("nearest", "blurred"):
        (root / method).mkdir()
        for name in ("coffee", "coins"):
            shutil.copyfile(photos / "methods" / method / f"{name}.png", root / method / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def home(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """The folder of the weights, and pyiqa's scores of the images in alphabetical order."""
    folder = tmp_path_factory.mktemp("weights")
    command = [sys.executable, "-c", ORACLE, folder, *sorted(outputs.glob("*/*.png"))]
    env = os.environ | environment(folder) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def run(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tests/support/random_weights.py", "--run", home, "bench", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_command_gives_what_pyiqa_gives_and_names_what_is_taken_away(
    home, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = home
    asked = [
        "--outputs",
        outputs,
        "--metrics",
        ",".join(("niqe", *LEARNED)),
        "--num-cpus",
        1,
        "--cache",
        tmp_path / "cache",
    ]
    done = run(folder, *asked, "--out", tmp_path / "whole", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["not_computed"] == {}
    rows = pq.read_table(tmp_path / "whole" / "per_image.parquet").to_pylist()
    for name in LEARNED:
        scores = {(row["method"], row["id"]): row["value"] for row in rows if row["metric"] == name}
        assert [scores[key] for key in sorted(scores)] == pytest.approx(expected[name], abs=1e-6), name
        if name != "qalign":  # in float16 four images of random weights round to one score on some processors
            assert len(set(expected[name])) > 1, f"{name} tells no image from another"
    # A shard is gone: the others are scored, and it is told. A file that holds no tensors ends the command.
    (snapshot,) = (folder / "hf" / "models--q-future--one-align" / "snapshots").iterdir()
    prompts = folder / "torch/hub/pyiqa/CLIP-IQA%2B_learned_prompts-603f3273.pth"
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    (snapshot / SHARDS[1]).rename(tmp_path / "shard")
    prompts.rename(tmp_path / "prompts")
    try:
        prompts.write_bytes(b"no weights")
        refused = run(folder, *asked[:2], "--metrics", "clipiqa+", "--out", tmp_path / "refused")
        with Path(folder / "trusted.txt").open("a") as trusted:
            trusted.write(f"\n{hashlib.sha256(b'no weights').hexdigest()}  prompts\n")
        unread = run(folder, *asked[:2], "--metrics", "clipiqa+", "--out", tmp_path / "unread")
        (tmp_path / "prompts").replace(prompts)
        few = ["--metrics", "niqe,qalign", *asked[4:]]
        done = run(folder, *asked[:2], *few, "--out", tmp_path / "without", "--json")
        told = doctor.diagnose("lucidflux-paper")["metrics"]
    finally:
        (tmp_path / "shard").rename(snapshot / SHARDS[1])
    assert refused.returncode == 6, refused.stderr
    assert f"clipiqa+ cannot be loaded: {prompts} is not opened, since it does not have the sha256" in refused.stderr
    assert f"add the line {hashlib.sha256(b'no weights').hexdigest()}" in refused.stderr
    assert unread.returncode == 6, unread.stderr
    assert "clipiqa+ was not loaded: one of its weight files holds something else than tensors" in unread.stderr
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert list(board["metrics"]) == ["niqe"]
    assert set(board["not_computed"]) == {"qalign"}
    assert f"{SHARDS[1]} in {snapshot} (from https://huggingface.co/q-future/one-align)" in told["qalign"]["sentence"]
    assert board["not_computed"]["qalign"] == told["qalign"]["sentence"]


def test_fid_is_the_frechet_distance_of_the_features(home, photos: Path, monkeypatch) -> None:
    """Inception of random weights from its file; pictures, features and distance once more, step by step."""
    import torch
    from pyiqa.archs.inception import InceptionV3

    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(home[0] / "torch/hub/pyiqa"))
    folders = photos / "methods" / "nearest", photos / "gt"
    for name, value in environment(home[0]).items():
        monkeypatch.setenv(name, value)
    found = pyiqa_models.frechet_distance(*map(str, folders))
    network = InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    features = []
    for folder in folders:
        pictures = []
        for path in sorted(folder.iterdir()):
            planes = [Image.fromarray(np.float32(plane)) for plane in np.moveaxis(decode(path.read_bytes()), 2, 0)]
            small = np.stack([np.asarray(p.resize((299, 299), Image.Resampling.BICUBIC)) for p in planes]).clip(0, 255)
            pictures.append(torch.from_numpy((small - 128) / 128))
        with torch.inference_mode():
            features.append(network(torch.stack(pictures), False, False)[0].flatten(1).double().numpy())
    # The covariances have rank 5: in a basis of that span scipy's square root is over matrices of 12x12.
    basis = linalg.orth(np.concatenate(features).T)
    expected = by_square_root(*(part @ basis for part in features))
    assert expected > 1e-3
    assert found == pytest.approx(expected, rel=1e-3)


def by_square_root(first: np.ndarray, second: np.ndarray) -> float:
    """The formula as it is written, with scipy's matrix square root of the product of the covariances."""
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(one @ two + 1e-12 * np.trace(one) * np.trace(two) * np.eye(len(one))).real
    return float(np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2) + np.trace(one + two - 2 * root))


@pytest.mark.parametrize("shapes", [((300, 20), (200, 20)), ((40, 20), (500, 20))])
def test_the_frechet_distance_equals_scipys_where_the_square_root_exists(shapes) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(k, 1 + k, shape) @ rng.normal(0, 1, (20, 20)) for k, shape in enumerate(shapes))
    assert fidelity.gaussian_distance(first, second) == pytest.approx(by_square_root(first, second), rel=1e-6)
    assert fidelity.gaussian_distance(first, first) == pytest.approx(0, abs=1e-8)


@pytest.fixture
def all_there(tmp_path: Path, monkeypatch) -> Path:
    """Every file of the lucidflux-paper profile, empty but for its place, and trusted as it is."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    names = [spec.name for spec in load_profile("lucidflux-paper").metrics]
    for file in sorted({file for name in names for file in WEIGHTS.get(name, ())}):
        place = location(file)
        if file.startswith("hf:"):
            revision = REVISIONS.get(file, "1")
            snapshot = place / "snapshots" / revision
            snapshot.mkdir(parents=True)
            (place / "refs").mkdir()
            (place / "refs" / "main").write_text(revision)
            for names in REPOSITORY_FILES[file]:
                (snapshot / names[0]).write_text(json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}))
            if file == "hf:q-future/one-align":
                for shard in SHARDS:
                    (snapshot / shard).touch()
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
    trust(tmp_path)
    return tmp_path


def test_each_file_alone_is_missed_by_name_and_folder(all_there: Path) -> None:
    """The leaderboard and `doctor` say the same of every file that is taken away, and of no other metric."""
    suite = suites.load_suite("reallq250", None)
    names = [spec.name for spec in load_profile("lucidflux-paper").metrics if spec.needs == "nothing"]
    specs = profile_of_metrics(names).metrics
    assert [spec.name for spec in specs if evaluate.why_not(spec, suite, "cpu")] == []
    files = [path for path in all_there.glob("*/**/*") if path.is_file() and path.parent.name != "refs"]
    assert len(files) == 7 + 2 + 6  # torch hub, timm, one-align
    for file in files:
        file.rename(all_there / "aside")
        found = doctor.diagnose("lucidflux-paper")["metrics"]
        lacking = {spec.name: reason for spec in specs if (reason := evaluate.why_not(spec, suite, "cpu"))}
        for name, reason in lacking.items():
            place = all_there if name == "clipiqa" else file.parent  # ours has several folders, and names the first
            assert f"{file.name} in {place} (from https://" in reason
            assert found[name]["sentence"] == reason
            assert [(item["file"], item["folder"]) for item in found[name]["files"]] == [(file.name, str(place))]
        told = {name for name, metric in found.items() if metric["status"] == "weights"}
        assert told - {"lpips"} == set(lacking)
        assert told, file
        (all_there / "aside").rename(file)
    (all_there / "hf/models--q-future--one-align/refs/main").unlink()  # a cache that was copied without its refs
    assert doctor.diagnose("lucidflux-paper")["metrics"]["qalign"]["files"][0]["file"] == "models--q-future--one-align"


def test_qalign_is_left_to_a_gpu_unless_it_is_asked_for_by_name(all_there: Path) -> None:
    suite = suites.load_suite("reallq250", None)
    (of_profile,) = (spec for spec in load_profile("lucidflux-paper").metrics if spec.name == "qalign")
    (asked,) = profile_of_metrics(["qalign"]).metrics
    assert "needs a GPU with 16 GB" in str(evaluate.why_not(of_profile, suite, "cpu"))
    assert evaluate.why_not(of_profile, suite, "cuda") is None
    assert evaluate.why_not(asked, suite, "cpu") is None
