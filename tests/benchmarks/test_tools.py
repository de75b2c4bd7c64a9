"""compare, published, doctor, suites; learned metrics with weights of the right shape."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import linalg, stats

from benchmarks.leaderboard import compare
from benchmarks.leaderboard.board import make_leaderboard
from benchmarks.leaderboard.columns import Rules
from benchmarks.methods import submission
from benchmarks.metrics import doctor, weights
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.suites import suite as suites
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.images import decode
from lucidflux_data.iqa import fetch, pyiqa_models
from lucidflux_data.iqa.pins import REVISIONS, SHA256, TRUSTED
from lucidflux_data.iqa.weight_files import REPOSITORY_FILES, WEIGHTS, location
from tests.support.paths import ROOT
from tests.support.random_weights import trust


def values(results: Path, method: str, metric: str) -> np.ndarray:
    rows = pq.read_table(results / "per_image.parquet").to_pylist()
    return np.array([row["value"] for row in rows if (row["method"], row["metric"]) == (method, metric)])


def test_two_methods_of_one_folder(scored: Path) -> None:
    found = compare.compare(f"{scored}:lanczos", f"{scored}:nearest", 3000)
    rows = {row["metric"]: row for row in found["rows"]}
    for metric, row in rows.items():
        difference = values(scored, "lanczos", metric) - values(scored, "nearest", metric)
        assert row["difference"] == pytest.approx(difference.mean())
        exact = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert row["p"] == pytest.approx(exact.pvalue)
        sign = -1 if metric == "niqe" else 1
        assert row["win_rate"] == pytest.approx(np.mean(sign * difference > 0), abs=1e-4)
        assert row["better"] == ("a" if sign * difference.mean() > 0 else "b")
    assert rows["psnr"]["better"] == "a"


def test_two_folders_and_metrics_that_were_computed_in_two_ways(scored: Path, photos: Path, bench, tmp_path) -> None:
    """A later state of one method against an earlier one; psnr was asked for with another crop."""
    later = tmp_path / "later" / "lanczos"
    shutil.copytree(photos / "methods" / "lanczos", later)
    shutil.copyfile(photos / "gt" / "coins.png", later / "coins.png")
    asked = ["--outputs", later, "--gt", photos / "gt", "--metrics", "psnr,ssim", "--out", tmp_path / "b"]
    assert bench(*asked, "--num-cpus", 1).returncode == 0
    board = json.loads((tmp_path / "b" / "leaderboard.json").read_text())
    board["signature"] = board["signature"].replace("psnr:lucidflux1+nocrop", "psnr:lucidflux1+crop4")
    (tmp_path / "b" / "leaderboard.json").write_text(json.dumps(board))
    done = bench("compare", tmp_path / "b", scored, "--json")
    found = json.loads(done.stdout)
    assert found["computed_in_two_ways"] == ["psnr"]
    (row,) = found["rows"]
    assert (row["methods"], row["metric"], row["n"], row["better"]) == (["lanczos", "lanczos"], "ssim", 6, "a")
    assert row["win_rate"] == pytest.approx((1 + 5 / 2) / 6, abs=1e-4)  # one image changed, five are ties
    shown = bench("compare", tmp_path / "b", scored).stdout
    assert "Left out, computed in two ways: psnr." in shown


def test_results_over_other_images_are_no_pairs(scored: Path, photos: Path, tmp_path: Path) -> None:
    """The same ids, and one other reference, other pins, or another suite."""
    board = json.loads((scored / "leaderboard.json").read_text())
    for role, hashes in board["compared_with"].items():
        assert hashes == {
            path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (photos / role).iterdir()
        }
    assert "|unpinned:" in board["signature"]
    other = Path(shutil.copytree(scored, tmp_path / "other"))
    pinned = board["signature"].replace("unpinned:", "pin:")
    changes = {
        "coins has another reference in": {"compared_with": {"gt": board["compared_with"]["gt"] | {"coins": "0"}}},
        "coins has another input in": {"compared_with": {"lq": board["compared_with"]["lq"] | {"coins": "0"}}},
        "over ad-hoc, .* over realsr:1": {"suite": "realsr:1"},
        "over other images of ad-hoc": {"signature": pinned.replace("pin:", "pin:0")},
    }
    for message, change in changes.items():
        (other / "leaderboard.json").write_text(json.dumps(board | {"signature": pinned} | change))
        first = Path(shutil.copytree(scored, tmp_path / "first", dirs_exist_ok=True))
        (first / "leaderboard.json").write_text(json.dumps(board | {"signature": pinned}))
        with pytest.raises(InputError, match=message):
            compare.compare(f"{first}:lanczos", f"{other}:nearest", 100)
    del board["compared_with"]  # of an earlier version
    (other / "leaderboard.json").write_text(json.dumps(board))
    assert compare.compare(f"{scored}:lanczos", f"{other}:nearest", 100)["rows"]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("{0}", "{0}", "compared with itself"),
        ("{0}:best", "{0}:nearest", "has no method best"),
        ("{0}/x", "{0}", "is not"),
    ],
)
def test_nothing_to_compare(a: str, b: str, message: str, scored: Path) -> None:
    with pytest.raises(InputError, match=message):
        compare.compare(a.format(scored), b.format(scored))


def test_published_is_printed_with_its_sources(bench_here) -> None:
    shown = bench_here("published", "--suite", "reallq250").stdout
    assert "arXiv 2509.22414v4" in shown
    assert "3.6742" in shown
    assert "musiq 2.05" in shown
    other = bench_here("published", "--suite", "realsr").stdout
    assert "Not comparable with outputs on realsr" in other
    rows = json.loads(bench_here("published", "--suite", "realset65", "--json").stdout)["rows"]
    assert rows == []


def test_suites_are_listed(bench_here) -> None:
    rows = {row["name"]: row for row in json.loads(bench_here("suites", "--json").stdout)["rows"]}
    assert (rows["reallq250"]["images"], rows["reallq250"]["output"], rows["reallq250"]["gt"]) == (
        250,
        "1024x1024",
        False,
    )


def fill_repository(weight: str, place: Path) -> None:
    """What `hf download` leaves of a repository, with files of nothing."""
    revision = REVISIONS.get(weight, "1")
    (place / "snapshots" / revision).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    for names in REPOSITORY_FILES[weight]:
        (place / "snapshots" / revision / names[0]).write_text('{"weight_map": {}}')


def test_doctor_tells_package_weights_and_gpu_apart(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("pyiqa")
    for name in ("TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HF_HUB_CACHE", "LUCIDFLUX_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    found = doctor.diagnose("lucidflux-paper")["metrics"]
    assert found["niqe"]["status"] == "ready"
    assert found["musiq"]["status"] == "weights"
    assert found["musiq"]["files"] == [
        {
            "file": "musiq_koniq_ckpt-e95806b9.pth",
            "folder": str(tmp_path / "TORCH_HOME/hub/pyiqa"),
            "from": "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/musiq_koniq_ckpt-e95806b9.pth",
        }
    ]
    assert {file["file"] for file in found["nima"]["files"]} == {
        *("NIMA_InceptionV2_ava-b0c77c00.pth", "models--timm--inception_resnet_v2.tf_in1k")
    }
    for weight in WEIGHTS["qalign"]:
        fill_repository(weight, location(weight))
    assert doctor.diagnose("lucidflux-paper")["metrics"]["qalign"]["status"] in ("gpu", "package")
    damaged = location("pyiqa/musiq_koniq_ckpt-e95806b9.pth")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"cut short")
    assert doctor.diagnose("lucidflux-paper")["metrics"]["musiq"]["status"] == "damaged"
    monkeypatch.setitem(weights.PACKAGES, "qalign", {"no_such_module": "no-such-package"})
    metric = doctor.diagnose("lucidflux-paper")["metrics"]["qalign"]
    assert (metric["status"], metric["packages"]) == ("package", ["no-such-package"])
    assert "pip install 'no-such-package'" in metric["sentence"]


def test_the_recipe_puts_every_file_where_it_is_looked_for(tmp_path: Path, monkeypatch) -> None:
    """Followed by hand, with files made here in place of downloads, no metric lacks weights any more."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lines = doctor.recipe(doctor.diagnose(None))
    for line in lines:
        words = line.split()
        if words[0] == "mkdir":
            target = Path(words[words.index("-o") + 1])
            assert words[-1].endswith(target.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"x")
        elif words[0] == "hf":
            place = Path(words[-1]) / ("models--" + words[2].replace("/", "--"))
            fill_repository(f"hf:{words[2]}", place)
            if "--revision" in words:  # then the library writes no name for it
                shutil.rmtree(place / "refs")
        elif words[0] == "(mkdir":
            subprocess.run(["sh", "-c", line], check=True)
    assert lines[-1] == f"export TORCH_HOME={tmp_path}/torch HF_HUB_CACHE={tmp_path}/hf HF_HUB_OFFLINE=1"
    found = doctor.diagnose(None)["metrics"]
    assert {name: weights.missing_weights(name) for name in found} == {name: [] for name in found}
    assert {name for name, metric in found.items() if metric["status"] == "weights"} == set()


def test_doctor_exits_6_for_a_profile_that_lacks_something(bench_here, tmp_path: Path) -> None:
    done = bench_here("doctor", "--profile", "seesr-paper", TORCH_HOME=str(tmp_path))
    assert done.returncode == 6
    assert "cannot run here" in done.stderr
    assert "export TORCH_HOME=" in done.stdout


def test_weights_are_where_pyiqa_looks_for_them() -> None:
    """The names of our table are the last parts of the installed pyiqa's urls, which it takes for its files too."""
    pyiqa = pytest.importorskip("pyiqa")
    from pyiqa.archs.arch_util import get_url_from_name

    source = "".join(path.read_text() for path in Path(pyiqa.__file__).parent.joinpath("archs").glob("*.py"))
    names = set(re.findall(r"""get_url_from_name\(\s*(?:name=)?['"]([^'"]+)['"]""", source))
    files = {urlparse(get_url_from_name(name)).path.rpartition("/")[2] for name in names}
    for name, needed in WEIGHTS.items():
        for file in needed:
            if file.startswith("pyiqa/"):
                assert file.removeprefix("pyiqa/") in files, name
                assert fetch.source(file) in {get_url_from_name(known) for known in names}


def test_every_file_of_a_metric_has_its_row_among_the_pins_and_in_the_docs() -> None:
    """The digits in a name are the first ones of what is pinned, and docs/security.md says what is pinned."""
    entries = {file for files in WEIGHTS.values() for file in files}
    assert SHA256.keys() == entries
    rows = {}
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3 and cells[0].split(", ")[0] in WEIGHTS:
            rows |= {(metric, cells[1].strip("`")): cells[2] for metric in cells[0].split(", ")}
    assert rows.keys() == {(metric, file.split(":")[-1]) for metric, files in WEIGHTS.items() for file in files}
    for metric, files in WEIGHTS.items():
        for file in files:
            digits = re.search(r"-([0-9a-f]{8})\.\w+$", file)
            assert all(len(digest) == 64 and digest.startswith(digits[1] if digits else "") for digest in SHA256[file])
            assert rows[metric, file.split(":")[-1]].startswith("yes" if SHA256[file] else "no"), file


def test_a_learned_metric_from_its_file(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """MUSIQ with random weights in the place of the published file: the harness gives what pyiqa gives from it."""
    pyiqa = pytest.importorskip("pyiqa")
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "hub" / "pyiqa"))
    torch.manual_seed(0)
    model = pyiqa.create_metric("musiq", pretrained=False, device="cpu")
    file = location("pyiqa/musiq_koniq_ckpt-e95806b9.pth")
    file.parent.mkdir(parents=True)
    torch.save(model.net.state_dict(), file)
    assert "does not have the sha256" in str(weights.problem("musiq"))  # so a leaderboard would refuse it
    with pytest.raises(VerificationError, match="musiq was not loaded"):
        evaluate.load_scorer(MetricSpec("musiq"), "cpu")
    trust(tmp_path)
    monkeypatch.setenv(TRUSTED, str(tmp_path / "trusted.txt"))
    image = decode((photos / "gt" / "chelsea.png").read_bytes())
    expected = pyiqa.create_metric("musiq", pretrained_model_path=str(file), device="cpu")(
        pyiqa_models.image_tensor([image])
    ).item()
    assert evaluate.load_scorer(MetricSpec("musiq"), "cpu")(image, None) == pytest.approx(expected, abs=1e-6)


def channel_distance(outputs: str, references: str, device: str) -> float:
    """The Frechet distance of two folders over three features of an image, its channel means."""
    features = [np.array([decode(path.read_bytes()).mean(axis=(0, 1)) for path in sorted(Path(folder).iterdir())])
                for folder in (outputs, references)]  # fmt: skip
    means, covariances = [f.mean(axis=0) for f in features], [np.cov(f, rowvar=False) for f in features]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return float(np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root))


def test_fid_is_a_metric_of_the_set(photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Which images are compared with which; pyiqa's 2048 features, minutes a set, give way to three."""
    monkeypatch.setattr(pyiqa_models, "frechet_distance", channel_distance)
    partial = Path(shutil.copytree(photos / "methods" / "blurred", tmp_path / "partial"))
    (partial / "coins.png").unlink()
    (partial / "coffee.png").write_bytes(b"no image")
    methods = submission.find_methods([str(photos / "gt"), str(photos / "methods" / "nearest"), str(partial)])
    suite = suites.ad_hoc_suite(None, photos / "gt", set())
    submission.inspect(methods, suite, submission.check_ids(methods, suite))
    scores = [evaluate.score_set(method, "0", suite, "cpu")["value"] for method in methods]
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert scores[1] == pytest.approx(channel_distance(str(photos / "methods" / "nearest"), str(photos / "gt"), "cpu"))
    four = Path(shutil.copytree(photos / "gt", tmp_path / "four"))
    for place in (four, partial):
        for name in ("coins.png", "coffee.png"):
            (place / name).unlink(missing_ok=True)
    assert scores[2] == pytest.approx(channel_distance(str(partial), str(four), "cpu"))
    row = {"suite": "s", "method": "a", "seed": "0", "id": "", "metric": "fid", "value": 3.5, "reason": None}
    table = pa.Table.from_pylist([row | {"seconds": 1.0}], evaluate.PER_IMAGE)
    board = make_leaderboard(table, ["1"], 1, [MetricSpec("fid")], {}, Rules(resamples=100))["metrics"]["fid"]
    assert (board["rows"]["a"]["mean"], board["rows"]["a"]["rank"], board["ranked"]) == (3.5, None, False)
    assert board["lower_is_better"]


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="there is no profile"):
        doctor.diagnose("paper")
