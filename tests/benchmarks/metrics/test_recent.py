"""The metrics of `perceptual-2026` from random weights in the real files: what is mended, refused, and given.

topiq_nr, liqe_mix and afine_all_scale have one width, of 2.4 GB together: they are in the slow test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.metrics import doctor
from benchmarks.metrics.profiles import load_profile
from lucidflux_data.errors import ConfigError, ImageError, VerificationError
from lucidflux_data.images import decode
from lucidflux_data.iqa import metrics, pins
from lucidflux_data.iqa.weight_files import WEIGHTS
from tests.support.paths import ROOT
from tests.support.random_weights import OF_2026, environment, trust

pytest.importorskip("pyiqa")

SMALL = ("fgresq", "qrealign-mini")
WRITE = """
import sys
from pathlib import Path
from tests.support import random_weights
random_weights.write(Path(sys.argv[1]), tuple(sys.argv[2:]))
"""
# As pyiqa alone scores, with what it needs here: OpenAI's file where A-FINE looks for it, and its sha256.
ORACLE = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from tests.support import random_weights
folder, home, images = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
(home / ".cache").mkdir()
(home / ".cache/clip").symlink_to(folder / "torch/hub/clip")
os.environ["HOME"] = str(home)
random_weights.name_ours(folder)
import pyiqa, torch
scores = {}
with torch.inference_mode():
    for name in ("topiq_nr", "liqe_mix", "afine_all_scale"):
        metric = pyiqa.create_metric(name, device="cpu")
        scores[name] = [metric(image, *([images[-1]] if name[0] == "a" else [])).item() for image in images[:-1]]
print(json.dumps(scores))
"""


def python(script: str, home: Path, *arguments: object) -> str:
    env = os.environ | environment(home) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(home), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=3000)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    python(WRITE, folder, *SMALL)
    return folder


@pytest.fixture
def home(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in environment(small).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(small / "torch/hub/pyiqa"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(small / "hf"))
    return small


@pytest.fixture(scope="module")
def pictures(photo_paths: list[Path]) -> list[np.ndarray]:
    by_name = {path.stem: decode(path.read_bytes()) for path in photo_paths if path.stem in ("coffee", "astronaut")}
    return [image[40:296, 60:316] for _, image in sorted(by_name.items())]


def test_every_metric_of_the_profile_has_direction_files_and_a_state() -> None:
    profile = load_profile("perceptual-2026")
    names = [spec.name for spec in profile.metrics]
    assert names == ["topiq_nr", "liqe_mix", "fgresq", "qrealign-mini", "afine_all_scale", "lpips", "dists",
                     "lr_consistency", "feature_distance", "feature_distance_lq"]  # fmt: skip
    distances = {"afine_all_scale", "lpips", "dists", "feature_distance"}
    assert {spec.name for spec in profile.metrics if spec.lower_is_better} == {*distances, "feature_distance_lq"}
    assert {spec.name for spec in profile.metrics if spec.needs == "gt"} == distances
    assert [spec.name for spec in profile.metrics if not spec.ranked] == names[-3:]
    import pyiqa

    for name in (*OF_2026, "lpips", "dists"):
        about = pyiqa.default_model_configs.DEFAULT_CONFIGS[name]
        assert about.get("lower_better", False) == metrics.lower_is_better(name), name
        assert (about["metric_mode"] == "FR") == metrics.metric(name).full_reference, name
        assert not metrics.metric(name).batched, "each image alone"
        assert all(weight in pins.SHA256 for weight in WEIGHTS[name])
    found = doctor.diagnose("perceptual-2026")["metrics"]
    assert list(found) == names


def test_fgresq_is_its_formula_and_depends_on_no_neighbour(home: Path, pictures: list[np.ndarray]) -> None:
    """From the tensors in the files, by torch alone but for the two towers."""
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    scorer = metrics.load_metric("fgresq")
    found = [next(iter(scorer(image))) for image in pictures]
    state = torch.load(home / "torch/hub/pyiqa/FGResQ.pth", weights_only=True)["model"]
    (snapshot,) = (home / "hf/models--openai--clip-vit-base-patch16/snapshots").iterdir()
    config = CLIPVisionConfig.from_pretrained(snapshot)
    assert "vision_model.embeddings.class_embedding" in load_file(snapshot / "model.safetensors")

    def tower(part: str, x: torch.Tensor) -> torch.Tensor:
        model, start = CLIPVisionModel(config).eval(), f"{part}.vision_model."
        mine = {name.removeprefix(start): values for name, values in state.items() if name.startswith(start)}
        model.load_state_dict({name: mine[name.removeprefix("vision_model.")] for name in model.state_dict()})
        return model(pixel_values=x).pooler_output

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.48145466, 0.4578275, 0.40821073),
                                                         (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    expected = []
    with torch.inference_mode():
        for image in pictures:
            x = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)[..., 16:240, 16:240]
            x = (x - mean) / std
            task = linear("task_mlp.2", torch.nn.functional.silu(linear("task_mlp.0", tower("task_cls_clip", x))))
            task = linear("prompt_mlp", torch.softmax(task, dim=1) * state["prompt"])
            features = tower("clip_model", x)
            score = torch.sigmoid(0.3 * linear("head", torch.cat([features, task, features + task], dim=1)))
            expected.append(score.item())
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-3
    assert list(scorer(np.stack(pictures))) == pytest.approx(found, abs=1e-5)


def test_a_part_without_weights_is_no_score(home: Path) -> None:
    """pyiqa warns, and scores with what it drew."""
    import torch

    path = home / "torch/hub/pyiqa/FGResQ.pth"
    whole = path.read_bytes()
    try:
        state = torch.load(path, weights_only=True)["model"]
        torch.save({name: values for name, values in state.items() if not name.startswith("head.")}, path)
        with pytest.raises(VerificationError, match="no sha256 is pinned for it"):
            metrics.load_metric("fgresq")
        trust(home)
        with pytest.raises(ConfigError, match=r"FGResQ weights lack 2 parts of the network, as head\.weight"):
            metrics.load_metric("fgresq")
    finally:
        path.write_bytes(whole)
        trust(home)


def test_qrealign_is_the_mean_of_five_words(home: Path, pictures: list[np.ndarray]) -> None:
    import torch
    from PIL import Image
    from pyiqa.archs.qrealign_arch import TASKS
    from transformers import AutoModelForImageTextToText, AutoProcessor

    scorer = metrics.load_metric("qrealign-mini")
    found = [next(iter(scorer(image))) for image in pictures]
    (snapshot,) = (home / "hf/models--q-future--Q-ReAlign-Mini-0.8B/snapshots").iterdir()
    processor = AutoProcessor.from_pretrained(snapshot)
    model = AutoModelForImageTextToText.from_pretrained(snapshot, dtype="auto").eval()
    prompt, stem = TASKS["quality"]
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True) + stem
    words = [processor.tokenizer(f" {word}")["input_ids"][0] for word in ("excellent", "good", "fair", "poor", "bad")]
    expected = []
    with torch.inference_mode():
        for image in pictures:
            inputs = processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
            chance = model(**inputs).logits[0, -1, words].float().softmax(-1)
            expected.append(float(chance @ torch.tensor([1, 0.75, 0.5, 0.25, 0])))
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[0] != found[1]
    assert list(scorer(np.stack(pictures))) == found


def test_sizes_that_a_metric_refuses_are_a_reason() -> None:
    for name, side, reason in (("liqe_mix", 223, "too_small"), ("afine_all_scale", 250, "wrong_size")):
        with pytest.raises(ImageError, match=name) as caught:
            metrics.check_size(name, np.zeros((256, side, 3), np.uint8))
        assert caught.value.reason == reason
        metrics.check_size(name, np.zeros((256, 224, 3), np.uint8))


@pytest.mark.slow
def test_the_command_gives_what_pyiqa_gives(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    """All five by `bench`, twice: what LIQE keeps of its text encoder is not taken from another run."""
    from PIL import Image

    weights = tmp_path / "weights"
    python(WRITE, weights, *OF_2026)
    for place, shift in (("one/m", 0), ("gt", 9)):
        (tmp_path / place).mkdir(parents=True)
        for number, image in enumerate(pictures):
            Image.fromarray(np.roll(image, shift, axis=0)).save(tmp_path / place / f"{number}.png")
    (tmp_path / "home").mkdir()
    images = [*sorted((tmp_path / "one/m").iterdir()), tmp_path / "gt/0.png"]
    expected = json.loads(python(ORACLE, weights, tmp_path / "home", *images).splitlines()[-1])
    (weights / "torch/hub/pyiqa/liqe_text_feat_mix.pt").write_bytes(b"of another run")
    run = [sys.executable, ROOT / "tests/support/random_weights.py", "--run", weights, "bench", "--outputs",
           tmp_path / "one", "--gt", tmp_path / "gt", "--metrics", ",".join(OF_2026), "--num-cpus", 1,
           "--cache", tmp_path / "cache", "--out", tmp_path / "out", "--json"]  # fmt: skip
    done = subprocess.run([str(part) for part in run], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["not_computed"] == {}
    rows = pq.read_table(tmp_path / "out/per_image.parquet").to_pylist()
    found = {name: [row["value"] for row in sorted(rows, key=lambda row: row["id"]) if row["metric"] == name]
             for name in OF_2026}  # fmt: skip
    assert all(len(set(values)) == 2 for values in found.values()), found
    for name in ("topiq_nr", "liqe_mix"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    assert found["afine_all_scale"][0] == pytest.approx(expected["afine_all_scale"][0], abs=1e-3)
