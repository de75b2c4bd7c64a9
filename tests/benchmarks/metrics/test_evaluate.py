"""Scoring as a user runs it: cache rules, resume, executors, what is missing, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.methods import submission
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import Item, ScoreImages
from benchmarks.suites import suite as suites
from lucidflux_data.images import decode
from lucidflux_data.iqa.batches import OutOfMemory
from lucidflux_data.iqa.niqe import niqe
from lucidflux_data.iqa.pins import file_sha256
from lucidflux_data.storage.folder import Folder
from tests.support.paths import LUCIDFLUX


def test_the_table_holds_the_scores_of_the_files(scored: Path, photos: Path) -> None:
    """Every value against the functions of other libraries or the definition, on the decoded files."""
    from skimage.metrics import peak_signal_noise_ratio

    rows = pq.read_table(scored / "per_image.parquet").to_pylist()
    assert len(rows) == 4 * 6 * 4  # methods, images, metrics
    assert set(rows[0]) == {"suite", "method", "seed", "id", "metric", "value", "reason", "seconds"}
    for row in rows:
        image, gt = (decode((photos / place / f"{row['id']}.png").read_bytes())
                     for place in (f"methods/{row['method']}", "gt"))  # fmt: skip
        if row["metric"] == "psnr":
            assert row["value"] == pytest.approx(peak_signal_noise_ratio(gt, image), abs=1e-3)
        if row["metric"] == "niqe":
            assert row["value"] == niqe(image)


def test_the_board_is_the_mean_of_the_table(scored: Path) -> None:
    rows = pq.read_table(scored / "per_image.parquet").to_pylist()
    board = json.loads((scored / "leaderboard.json").read_text())
    assert board["suite"] == "ad-hoc"
    for name, metric in board["metrics"].items():
        for method, row in metric["rows"].items():
            values = [r["value"] for r in rows if (r["metric"], r["method"]) == (name, method)]
            assert row["mean"] == pytest.approx(np.mean(values))
            assert (row["n"], row["of"]) == (6, 6)
    ranks = {m: r["rank"] for m, r in board["metrics"]["psnr"]["rows"].items()}
    assert sorted(ranks.values()) == [1, 2, 3, 4]
    assert ranks["lanczos"] < ranks["nearest"]
    assert set(board["groups"]["fidelity"]["rows"]) == set(board["methods"])
    assert "identical to bicubic upscaling" in board["flags"]["bicubic"]
    assert "psnr:lucidflux1+nocrop+rgb" in board["signature"]
    environment = json.loads((scored / "environment.json").read_text())
    assert environment["decisive"]["numpy"] == np.__version__
    assert board["signature"].endswith(f"env:{environment['hash']}")


def stage(photos: Path, names: tuple[str, ...] = ("lanczos",)) -> tuple[list[submission.Method], suites.Suite]:
    methods = submission.find_methods([str(photos / "methods" / name) for name in names])
    suite = suites.ad_hoc_suite(photos / "lq", photos / "gt", set())
    submission.inspect(methods, suite, submission.check_ids(methods, suite))
    return methods, suite


def fill(cache: Folder, spec: MetricSpec, items: list[Item]) -> None:
    score = ScoreImages(spec, "cpu")
    for name, part in evaluate.missing_units(items, evaluate.read_cache(cache, score.place)):
        for file, content in score(name, part):
            cache.publish(file, content)


def lacks(cache: Folder, spec: MetricSpec, items: list[Item]) -> int:
    known = evaluate.read_cache(cache, evaluate.cache_place(spec, "cpu"))
    return sum(len(part) for _, part in evaluate.missing_units(items, known))


def test_cache_rules(photos: Path, tmp_path: Path) -> None:
    cache, psnr = Folder(tmp_path / "cache"), MetricSpec("psnr")
    methods, suite = stage(photos)
    items = evaluate.make_items(psnr, methods, suite)
    assert lacks(cache, psnr, items) == 6
    fill(cache, psnr, items)
    assert lacks(cache, psnr, items) == 0
    # Another parameter, another metric: nothing is known.
    assert lacks(cache, MetricSpec("psnr", channel="ycbcr"), items) == 6
    assert lacks(cache, MetricSpec("psnr", crop=4), items) == 6
    assert lacks(cache, MetricSpec("niqe"), evaluate.make_items(MetricSpec("niqe"), methods, suite)) == 6
    # Another method with equal files, other names and places: all is known. One changed file: one is to be scored.
    copies = shutil.copytree(photos / "methods" / "lanczos", tmp_path / "copies")
    moved = submission.find_methods([f"moved={copies}"])
    submission.inspect(moved, suite, submission.check_ids(moved, suite))
    assert lacks(cache, psnr, evaluate.make_items(psnr, moved, suite)) == 0
    shutil.copyfile(photos / "methods" / "nearest" / "coins.png", Path(copies) / "coins.png")
    submission.inspect(moved, suite, submission.check_ids(moved, suite))
    assert lacks(cache, psnr, evaluate.make_items(psnr, moved, suite)) == 1
    # Another reference: that image is to be scored again.
    references = Path(shutil.copytree(photos / "gt", tmp_path / "gt"))
    shutil.copyfile(photos / "methods" / "nearest" / "brick.png", references / "brick.png")
    other = suites.ad_hoc_suite(photos / "lq", references, set())
    assert lacks(cache, psnr, evaluate.make_items(psnr, methods, other)) == 1
    # The same image in two methods is scored once.
    assert len(evaluate.make_items(psnr, [*methods, *submission.find_methods([f"m={copies}"])], suite)) == 6


def test_cached_scores_do_not_depend_on_the_order(photos: Path, tmp_path: Path) -> None:
    spec = MetricSpec("ssim")
    methods, suite = stage(photos, ("lanczos", "nearest"))
    items = evaluate.make_items(spec, methods, suite)
    assert items == sorted(items, key=lambda item: item.key)
    fill(Folder(tmp_path / "a"), spec, items[:3])
    fill(Folder(tmp_path / "a"), spec, items)
    fill(Folder(tmp_path / "b"), spec, items)
    place = evaluate.cache_place(spec, "cpu")
    known = [evaluate.read_cache(Folder(tmp_path / c), place) for c in "ab"]
    values = [{key: (row["value"], row["reason"]) for key, row in rows.items()} for rows in known]
    assert values[0] == values[1]
    assert len(values[0]) == 12


def test_lasting_failures_are_kept_and_transient_ones_are_not(photos: Path, tmp_path: Path) -> None:
    methods, suite = stage(photos)
    spec = MetricSpec("niqe")
    items = evaluate.make_items(spec, methods, suite)
    small, gone = Path(photos / "lq" / "coins.png"), tmp_path / "gone.png"
    tiny, lost = file_sha256(small), file_sha256(photos / "gt" / "chelsea.png")
    odd = [Item((tiny, ""), str(small), None), Item((lost, ""), str(gone), None)]
    cache = Folder(tmp_path / "cache")
    fill(cache, spec, [*items, *odd])
    known = evaluate.read_cache(cache, evaluate.cache_place(spec, "cpu"))
    assert known[tiny, ""]["reason"] == "iqa_not_finite"  # 48 px: NIQE has no block
    assert known[lost, ""]["reason"] == "missing"
    assert lacks(cache, spec, [*items, *odd]) == 1
    gone.write_bytes(Path(items[0].path).read_bytes())  # another image: its score is not kept as that of the first
    assert evaluate.score_item(odd[1], lambda *_: 1.0)["reason"] == "changed"
    fill(cache, spec, [*items, *odd])
    assert lacks(cache, spec, [*items, *odd]) == 1
    gone.write_bytes((photos / "gt" / "chelsea.png").read_bytes())  # it is back: the next run takes it
    fill(cache, spec, [*items, *odd])
    assert lacks(cache, spec, [*items, *odd]) == 0
    known = evaluate.read_cache(cache, evaluate.cache_place(spec, "cpu"))
    assert known[lost, ""]["value"] == niqe(decode(gone.read_bytes()))

    def runs_out(*_: object) -> float:
        raise OutOfMemory

    assert evaluate.score_item(items[0], runs_out)["reason"] == "iqa_out_of_memory"
    assert evaluate.score_item(items[0], lambda *_: float("inf"))["reason"] == "iqa_not_finite"

    def breaks(*_: object) -> float:
        raise RuntimeError("sizes of tensors must match\nat line 3")

    row = evaluate.score_item(items[0], breaks)
    assert row["reason"] == "metric_failed (RuntimeError: sizes of tensors must match)"
    assert not evaluate.is_settled(row)


@pytest.mark.slow
def test_a_dry_run_knows_the_cache_and_ray_gives_the_same_files(
    photos: Path, bench, scored: Path, tmp_path: Path
) -> None:
    folders = [photos / "methods" / name for name in ("nearest", "bicubic", "lanczos", "blurred")]
    asked = ["--outputs", *folders, "--inputs", photos / "lq", "--gt", photos / "gt"]
    asked += ["--metrics", "niqe,psnr,ssim,lr_consistency", "--group", "fidelity=psnr,ssim"]
    plan = json.loads(bench(*asked, "--dry-run", "--json").stdout)
    assert plan["metrics"]["niqe"] == {"cached": 24, "to_score": 0}
    fresh = ["--cache", tmp_path / "cache", "--executor", "ray", "--num-cpus", 2]
    done = bench(*asked, "--out", tmp_path / "again", *fresh)
    assert done.returncode == 0, done.stderr
    assert "private Ray cluster" in done.stderr
    names = sorted(path.name for path in scored.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        if name not in ("environment.json", "per_image.parquet"):  # these two hold times
            assert (tmp_path / "again" / name).read_bytes() == (scored / name).read_bytes(), name


def test_killed_it_resumes_with_what_was_scored(photos: Path, bench, tmp_path: Path) -> None:
    """SIGKILL after the first units: what the cache holds is not scored again, and the results are those of one run."""
    asked = ["--outputs", str(photos / "methods"), "--metrics", "niqe", "--num-cpus", "1"]
    cache = ["--cache", str(tmp_path / "cache")]
    env = os.environ | {"LUCIDFLUX_SUITES": str(tmp_path)}
    command = [LUCIDFLUX, "bench", *asked, *cache, "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("niqe-*/*.parquet")):
        assert time.monotonic() < deadline, "nothing was scored"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # workers leave when they see that their parent is gone
    kept = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "cache").glob("niqe-*/*.parquet"))
    assert not (tmp_path / "out" / "leaderboard.json").exists()
    resumed = bench(*asked, *cache, "--out", tmp_path / "out")
    assert resumed.returncode == 0, resumed.stderr
    assert f"niqe: {kept} done before" in resumed.stderr
    whole = bench(*asked, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for name in ("leaderboard.json", "leaderboard.md", "report.html"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.fixture(scope="module")
def ten(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of 1024x1024 of six methods, under reallq250's names."""
    import cv2

    root = tmp_path_factory.mktemp("ten")
    paths = sorted((photos / "gt").iterdir())
    changes = {"lucidflux": 0.0, "seesr": 0.8, "supir": 1.2, "dreamclear": 1.6, "sinsr": 2.0, "resshift": 2.4}
    for name, sigma in changes.items():
        (root / name).mkdir()
        for k in range(10):
            image = cv2.imread(str(paths[k % len(paths)]))
            image = cv2.resize(np.roll(image, 17 * k, axis=1), (1024, 1024), interpolation=cv2.INTER_CUBIC)
            image = cv2.GaussianBlur(image, (0, 0), sigma) if sigma else image
            cv2.imwrite(str(root / name / f"{k + 1:03d}.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return root


def test_ten_images_of_six_methods_in_one_line(ten: Path, bench, bench_here, tmp_path: Path) -> None:
    """No archive, no weights: NIQE is ranked under n=10/250, and each metric that is missing names its file."""
    folders = sorted(ten.iterdir())
    inputs = tmp_path / "lq"
    inputs.mkdir()
    for path in (ten / "lucidflux").iterdir():
        with Image.open(path) as image:
            image.resize((256, 256), Image.Resampling.BICUBIC).save(inputs / path.name)
    line = ["--suite", "reallq250", "--outputs", *folders, "--inputs", inputs, "--allow-partial"]
    done = bench(*line, "--num-cpus", 1, cwd=tmp_path, TORCH_HOME=str(tmp_path / "torch"))
    assert done.returncode == 0, done.stderr
    results = tmp_path / "bench-results" / "reallq250-lucidflux-paper"
    board = json.loads((results / "leaderboard.json").read_text())
    assert sorted(row["rank"] for row in board["metrics"]["niqe"]["rows"].values()) == [1, 2, 3, 4, 5, 6]
    assert (board["metrics"]["niqe"]["n"], board["metrics"]["niqe"]["of"]) == (10, 250)
    assert "n=10/250" in done.stdout
    assert board["signature"].startswith("reallq250:1|n:10/250|")
    consistency = board["metrics"]["lr_consistency"]["rows"]
    assert consistency["lucidflux"]["mean"] == pytest.approx(80)  # the very images that the inputs were made from
    assert all((row["n"], row["rank"]) == (10, None) for row in consistency.values())
    page = (results / "report.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["ids"] == [f"{k:03d}" for k in range(1, 11)]  # not the 240 of which nothing is there
    assert len(data["gallery"]) == 8
    whole = bench_here(*line[:-1], cwd=tmp_path)
    assert whole.returncode == 3
    assert "--inputs lacks 011 (240 of 250); --allow-partial takes a part" in whole.stderr
    assert set(board["not_computed"]) == {
        *("clipiqa", "clipiqa+", "musiq", "maniqa", "qalign", "nima", "psnr", "ssim", "lpips")
    }
    for name, file in (("musiq", "musiq_koniq_ckpt-e95806b9.pth"), ("clipiqa", "RN50.pt"), ("nima", "NIMA_Inception")):
        reason = board["not_computed"][name]
        assert file in reason or "pip install" in reason
    published = {row["method"]: row["values"]["niqe"] for row in board["published"] if row["source"] == "LucidFlux"}
    assert published["SUPIR"] == 3.6591
    limited = json.loads(bench_here(*line, "--limit", 3, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert (limited["images"], limited["suite"]) == (3, "reallq250:1")


def test_the_suite_checks_size_and_ids(photos: Path, bench_here, tmp_path: Path) -> None:
    wrong = bench_here("--suite", "reallq250", "--outputs", photos / "methods" / "lanczos", cwd=tmp_path)
    assert wrong.returncode == 3
    assert "lanczos has 6 images that reallq250 does not have: astronaut, brick, camera" in wrong.stderr
    small = tmp_path / "small"
    small.mkdir()
    shutil.copyfile(photos / "gt" / "coins.png", small / "001.png")
    wrong = bench_here("--suite", "reallq250", "--outputs", small, cwd=tmp_path)
    assert wrong.returncode == 3
    assert "192x192; reallq250:1 asks for 1024x1024" in wrong.stderr


def test_offline_photos_prepare_themselves(bench, tmp_path: Path, monkeypatch) -> None:
    """Named for the first time, and again where other libraries have made it; then it is used as it stands."""
    from benchmarks.evaluation import Places, choose_suite

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    suite = choose_suite("offline-photos", tmp_path / "suites", [], Places())
    about = tmp_path / "suites" / "offline-photos" / "suite.json"
    written = about.stat().st_mtime_ns
    assert choose_suite("offline-photos", tmp_path / "suites", [], Places()) == suite
    assert about.stat().st_mtime_ns == written
    about.write_text(about.read_text().replace(f'"numpy": "{np.__version__}"', '"numpy": "1.0"'))
    assert choose_suite("offline-photos", tmp_path / "suites", [], Places()) == suite
    outputs = f"oracle={tmp_path / 'suites' / 'offline-photos' / 'gt'}"
    done = bench("--suite", "offline-photos", "--outputs", outputs, "--metrics", "psnr,lr_consistency", "--json",
                 "--out", tmp_path / "out", "--suites-dir", tmp_path / "suites", "--num-cpus", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    assert board["metrics"]["psnr"]["rows"]["oracle"]["mean"] == pytest.approx(80)
    assert (board["metrics"]["psnr"]["rows"]["oracle"]["n"], board["suite"]) == (11, "offline-photos:2")
    assert f"pin:{suite.fingerprint[:8]}" in board["signature"]


USAGE = {
    "unknown metric": (["--metrics", "musik"], 2, "musiq"),
    "a metric twice": (["--metrics", "niqe,niqe"], 2, "twice"),
    "no metric": (["--metrics", ","], 2, "names no metric"),
    "profile and metrics": (["--metrics", "niqe", "--profile", "offline"], 2, "exclude each other"),
    "unknown profile": (["--profile", "mine"], 2, "lucidflux-paper"),
    "unknown suite": (["--suite", "reallq"], 2, "reallq250"),
    "unknown test": (["--test", "t"], 2, "permutation, wilcoxon"),
    "group of nothing": (["--metrics", "niqe", "--group", "x="], 2, "NAME=metric"),
    "group of others": (["--metrics", "niqe", "--group", "x=musiq"], 2, "not among the metrics"),
    "a metric counted double": (["--metrics", "niqe", "--group", "x=niqe,niqe"], 2, "--group x names niqe twice"),
    "two groups of a name": (
        ["--metrics", "niqe", "--group", "x=niqe", "--group", "x=niqe"],
        2,
        "two groups are called x",
    ),
    "unknown executor": (["--metrics", "niqe", "--executor", "slurm"], 2, "is not one of 'ray', 'local'"),
    "no references": (["--gt", "nowhere"], 3, "nowhere is not a folder"),
    "too many failed": (
        ["--metrics", "niqe", "--max-failed", "0", "--gt", "GT", "--allow-partial"],
        4,
        "scores are missing",
    ),
}


@pytest.mark.parametrize("what", list(USAGE))
def test_mistakes_are_one_sentence_and_an_exit_code(what: str, photos: Path, bench, bench_here, tmp_path: Path) -> None:
    options, code, message = USAGE[what]
    few = tmp_path / "few"
    few.mkdir()
    shutil.copyfile(photos / "methods" / "lanczos" / "coins.png", few / "coins.png")
    options = [str(photos / "gt") if option == "GT" else option for option in options]
    call = bench if code == 4 else bench_here
    done = call("--outputs", few, *options, "--num-cpus", 1, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_results_of_another_suite_are_not_overwritten(photos: Path, bench_here, scored: Path, tmp_path: Path) -> None:
    done = bench_here("--outputs", photos / "methods", "--profile", "offline", "--out", scored)
    assert done.returncode == 2
    assert "holds results of ad-hoc, metrics" in done.stderr
    (tmp_path / "notes.txt").write_text("mine")
    done = bench_here("--outputs", photos / "methods", "--metrics", "niqe", "--out", tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
