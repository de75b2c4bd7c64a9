"""Columns and scorers, near-duplicates, firewall, strict rules, lists, forget, diff, retry and plan."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.filter.repair import examine_metrics

LOCAL = ["--executor", "local", "--num-cpus", "1"]
SCORER = '''
import numpy as np

class Brightness:
    """Loaded once a process; mean and a word."""

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        means = [float(image.mean()) for image in images]
        return {"brightness": np.array(means), "tone": ["dark" if mean < 100 else "bright" for mean in means]}

def broken(images):
    return {"x": images[0].no_such_thing}

def short(images):
    return {"x": [1.0]} if len(images) > 1 else {"x": []}
'''


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, photo_paths: list[Path]) -> Path:
    """Photos of 512 px, and of some of them a flipped, a smaller, a cut and a badly compressed version."""
    folder = tmp_path_factory.mktemp("photos")
    names = ("astronaut", "chelsea", "coffee", "rocket", "retina", "motorcycle_left", "ihc", "hubble_deep_field")
    images = {path.stem: cv2.imread(str(path)) for path in photo_paths if path.stem in names}
    for name, image in images.items():
        factor = 512 / min(image.shape[:2])
        images[name] = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        (folder / f"{name}.jpg").write_bytes(jpeg(images[name]))
    (folder / "copy-flipped.jpg").write_bytes(jpeg(images["coffee"][:, ::-1], 80))
    small = cv2.resize(images["coffee"], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    (folder / "copy-smaller.jpg").write_bytes(jpeg(small, 90))
    (folder / "copy-cut.jpg").write_bytes(jpeg(images["astronaut"][40:450, 60:480], 85))
    (folder / "copy-blocks.png").write_bytes(
        cv2.imencode(".png", cv2.imdecode(np.frombuffer(jpeg(images["chelsea"], 25), np.uint8), 1))[1].tobytes()
    )
    return folder


@pytest.fixture(scope="module")
def scored(photos: Path, tmp_path_factory: pytest.TempPathFactory, data_command) -> Path:
    run = tmp_path_factory.mktemp("scored") / "run"
    wide = ["--set", "rules.min_laplacian_variance=1", "--set", "rules.max_flat_fraction=1"]
    done = data_command("filter", photos, "--out", run, "--iqa", "niqe", "--top-fraction", "1", *wide, *LOCAL)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored, tmp_path / "run")
    return tmp_path / "run"


def ledger(run: Path) -> dict[str, dict]:
    return {row["source_key"]: row for row in pq.read_table(run / "selected.parquet").to_pylist()}


def tree(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file() and "events" not in path.parts]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_near_duplicates_keep_the_best(run: Path, data_command) -> None:
    done = data_command("select", run, "--near-duplicates", 4, *LOCAL)
    assert done.returncode == 0, done.stderr
    rows = ledger(run)
    copies = [rows[name] for name in ("coffee.jpg", "copy-flipped.jpg", "copy-smaller.jpg")]
    assert len({row["group"] for row in copies}) == 1
    assert copies[0]["group"] == min(row["key"] for row in copies)
    best = min(copies, key=lambda row: row["niqe"])
    assert [row["keep"] for row in copies] == [row is best for row in copies]
    assert {row["reason"] for row in copies if row is not best} == {"near_duplicate"}
    assert rows["rocket.jpg"]["group"] is None
    count = sum(row["reason"] is None for row in rows.values())
    done = data_command("select", run, "--top-k", 5, *LOCAL)
    assert done.returncode == 0, done.stderr
    kept = [row for row in ledger(run).values() if row["keep"]]
    assert len(kept) == 5 < count, "--top-k is the final count"
    assert len({row["group"] or row["key"] for row in kept}) == 5
    assert max(row["rank"] for row in kept) < min(r["rank"] for r in ledger(run).values() if r["reason"] == "low_iqa")


def test_benchmark_images_do_not_get_in(run: Path, photos: Path, tmp_path: Path, data_command) -> None:
    suite = tmp_path / "MySuite"
    suite.mkdir()
    for name in ("astronaut.jpg", "coffee.jpg"):
        shutil.copy(photos / name, suite / name)
    file = tmp_path / "fp" / "mine.parquet"
    assert data_command("fingerprint", suite, "--name", "MySuite", "--out", file).returncode == 0
    assert file.stat().st_size < 12_000
    shutil.rmtree(suite)
    asked = ("select", run, "--forbid", file, "--forbid", "RealLQ250", *LOCAL)
    assert data_command(*asked).returncode == 2, "a suite is missing"
    done = data_command(*asked, "--forbid-missing", "warn")
    assert done.returncode == 0, done.stderr
    assert "RealLQ250" in done.stderr
    assert "NOT CHECKED" in done.stderr
    rows = ledger(run)
    leaks = {name for name, row in rows.items() if row["reason"] == "benchmark_leak"}
    assert leaks == {"astronaut.jpg", "coffee.jpg", "copy-flipped.jpg", "copy-smaller.jpg", "copy-cut.jpg"}
    assert data_command("pack", run, *LOCAL).returncode == 0
    report = (run / "report.html").read_text()
    assert "MySuite/coffee.jpg" in report
    assert "RealLQ250" in report
    checked = json.loads((run / "manifest.json").read_text())["firewall"]
    assert checked["checked"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert checked["not_checked"] == ["RealLQ250"]


def test_scorers_and_joined_columns_decide_and_travel(run: Path, tmp_path: Path, data_command) -> None:
    """Their own scores, and an example that drops NSFW and watermarked images by joined columns."""
    (tmp_path / "my_scores.py").write_text(SCORER)
    done = data_command("score", run, "--scorer", "my_scores:Brightness", *LOCAL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = ledger(run)
    names = list(rows)
    table = pa.table(
        {
            "key": [rows[name]["key"] for name in names],
            "nsfw": [0.9 if name == "retina.jpg" else 0.01 for name in names],
            "watermark": [0.8 if name == "rocket.jpg" else 0.02 for name in names],
            "license": ["cc0" if name < "d" else "cc-by" for name in names],
        }
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    where = "nsfw < 0.5 and watermark < 0.3 and brightness > 20"
    options = ["--join", tmp_path / "labels.parquet", "--where", where, "--carry", "license,tone"]
    done = data_command("select", run, *options, *LOCAL)
    assert done.returncode == 0, done.stderr
    after = ledger(run)
    for name, row in after.items():
        data = cv2.imread(str(Path(row["uri"].removeprefix("file://"))))
        assert row["brightness"] == pytest.approx(data.mean(), abs=0.6)
        assert row["tone"] == ("dark" if row["brightness"] < 100 else "bright")
        wanted = name not in ("retina.jpg", "rocket.jpg") and row["brightness"] > 20
        assert row["keep"] == wanted, name
        assert wanted or row["reason"] == "where_not_met"
    assert data_command("pack", run, *LOCAL).returncode == 0
    tar = next((run / "shards").glob("*.tar"))
    with tarfile.open(tar) as file:
        for member in file:
            if member.name.endswith(".json"):
                sample = json.loads(file.extractfile(member).read())
                assert sample["license"] == ("cc0" if sample["source_key"] < "d" else "cc-by")
                assert sample["tone"] in ("dark", "bright")
    pairs = tmp_path / "pairs"
    size = ["--size", 256, "--variants", 1]
    done = data_command("synthesize", run, "--out", pairs, *size, *LOCAL)
    assert done.returncode == 0, done.stderr
    licenses = {row["key"]: row["license"] for row in after.values() if row["keep"]}
    with tarfile.open(next((pairs / "shards").glob("*.tar"))) as file:
        told = [json.loads(file.extractfile(member).read()) for member in file if member.name.endswith(".json")]
    assert told
    assert all(sample["carried"]["license"] == licenses[sample["key"][:20]] for sample in told)
    wrong = data_command("score", run, "--scorer", "my_scores:short", *LOCAL, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "returned" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    broken = data_command("score", run, "--scorer", "my_scores:broken", *LOCAL, cwd=tmp_path)
    assert broken.returncode == 2
    assert "my_scores:broken failed: AttributeError" in broken.stderr
    typo = data_command("select", run, "--where", "nfsw < 0.5", *LOCAL)
    assert typo.returncode == 2
    assert "nsfw" in typo.stderr


def test_strict_rules_reject_by_name(photos: Path, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    done = data_command("filter", photos, "--out", run, "--preset", "strict", "--iqa", "none", *LOCAL)
    assert done.returncode == 0, done.stderr
    rows = ledger(run)
    assert rows["copy-blocks.png"]["reason"] in ("jpeg_artifacts", "too_small", "too_flat", "too_blurry")
    assert {row["reason"] for row in rows.values()} <= {
        None,
        "too_small",
        "too_flat",
        "too_blurry",
        "jpeg_artifacts",
        "upscaled",
        "soft",
        "near_duplicate",
        "too_sharp",
    }
    run_file = json.loads((run / "run.json").read_text())
    assert run_file["label"] == "strict (modified: iqa=none)"


def test_opt_out_lists_and_forget(run: Path, tmp_path: Path, data_command) -> None:
    small = ["--set", "shards.max_samples=3"]
    assert data_command("pack", run, *small, *LOCAL).returncode == 0
    before, rows = tree(run), ledger(run)
    victim = next(row for row in rows.values() if row["keep"])
    done = data_command("forget", run, victim["sha256"], "--json")
    assert done.returncode == 0, done.stderr
    touched = json.loads(done.stdout)["shards_rewritten"]
    assert len(touched) == 1
    after = tree(run)
    changed = {name for name in before if name.endswith(".tar") and before[name] != after[name]}
    assert changed == {f"shards/{touched[0]}"}
    assert ledger(run)[victim["source_key"]]["reason"] == "opted_out"
    assert victim["key"].encode() not in b"".join(path.read_bytes() for path in (run / "shards").glob("*"))
    assert data_command("verify", run, "--deep").returncode == 0
    assert data_command("select", run, "--set", "cut.top_fraction=1", *LOCAL).returncode == 0
    assert ledger(run)[victim["source_key"]]["reason"] == "opted_out", "a later select does not bring it back"
    assert data_command("forget", run, "f" * 64).returncode == 3
    (tmp_path / "out.txt").write_text(f"# asked by the photographer\n{rows['rocket.jpg']['uri']}\n")
    assert data_command("select", run, "--opt-out", tmp_path / "out.txt", *LOCAL).returncode == 0
    assert ledger(run)["rocket.jpg"]["reason"] == "opted_out"


def test_diff_tells_what_changed_and_why(scored: Path, run: Path, data_command) -> None:
    assert data_command("select", run, "--set", "rules.min_laplacian_variance=500", *LOCAL).returncode == 0
    found = json.loads(data_command("diff", scored, run, "--json").stdout)
    first, second = ledger(scored), ledger(run)
    gone = [name for name, row in first.items() if row["keep"] and not second[name]["keep"]]
    assert gone
    assert found["removed"] == {"too_blurry": len(gone)}
    assert found["added"] == {}
    assert found["kept"] == {"first": len(first), "second": len(first) - len(gone), "both": len(first) - len(gone)}
    values = [np.sort([row["laplacian_variance"] for row in rows.values() if row["keep"]]) for rows in (first, second)]
    scipy_stats = pytest.importorskip("scipy.stats")
    assert found["scores"]["laplacian_variance"]["ks"] == pytest.approx(scipy_stats.ks_2samp(*values).statistic)
    said = data_command("diff", scored, run)
    assert f"gone from B {len(gone)} too_blurry in B" in " ".join(said.stdout.split()), said.stderr
    back = json.loads(data_command("diff", run, scored, "--json").stdout)
    assert back["added"] == {"too_blurry": len(gone)}


def test_retry_measures_failures_again(photos: Path, tmp_path: Path, data_command) -> None:
    folder, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, folder)
    hidden = (folder / "rocket.jpg").read_bytes()
    (folder / "rocket.jpg").unlink()
    (folder / "rocket.jpg").symlink_to(folder / "not-mounted.jpg")
    options = ["--iqa", "none", *LOCAL]
    assert data_command("filter", folder, "--out", run, *options).returncode == 0
    assert ledger(run)["rocket.jpg"]["reason"] == "missing"
    (folder / "not-mounted.jpg").write_bytes(hidden)
    done = data_command("retry", run, "--status", "missing", "--json", *LOCAL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"next": ""} == {
        "run": str(run),
        "tried": 1,
        "recovered": 1,
        "scores_dropped": 0,
        "next": "",
        "warnings": [],
    }
    assert data_command("select", run, *LOCAL).returncode == 0
    assert ledger(run)["rocket.jpg"]["sha256"] == hashlib.sha256(hidden).hexdigest()
    wrong = data_command("retry", run, "--status", "too_blurry", *LOCAL)
    assert wrong.returncode == 2
    assert "is no failure" in wrong.stderr


def test_a_decoder_that_takes_too_long_costs_one_image(photos: Path, tmp_path: Path, data_command) -> None:
    """The first attempt ends with its process, the second isolates each image; everything else is kept."""
    from pipelines.demo.data import png_of_zeros

    folder, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, folder)
    (folder / "hang.png").write_bytes(png_of_zeros(13_000, 13_000))
    options = ["--iqa", "none", "--set", "decode.timeout_s=1.5", *LOCAL]
    done = data_command("filter", folder, "--out", run, *options)
    assert done.returncode == 0, done.stderr
    assert "lost its worker" in done.stderr
    rows = ledger(run)
    assert rows["hang.png"]["reason"] == "decode_timeout"
    assert sum(row["reason"] == "decode_timeout" for row in rows.values()) == 1
    events = [json.loads(path.read_text()) for path in (run / "events").glob("*.jsonl")]
    assert {event["outcome"] for event in events} == {"done", "lost"}


def test_plan_predicts_and_the_run_compares(photos: Path, tmp_path: Path, data_command) -> None:
    run = tmp_path / "run"
    options = ["--num-cpus", 2, "--iqa", "niqe", "--sample", 12]
    done = data_command("plan", photos, *options, "--out", run, "--price-cpu-hour", 1, "--json")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["candidates"] == len(list(photos.iterdir()))
    assert planned["bytes_in"] >= sum(path.stat().st_size for path in photos.iterdir())
    said = data_command("plan", photos, *options)
    assert "saturates_first: score cpu" in said.stdout, said.stderr
    assert "survives the cheap rules" in said.stdout
    done = data_command("filter", photos, "--out", run, "--iqa", "niqe", "--json", *LOCAL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["predicted"]["core_hours"] == planned["core_hours"]
    assert told["actual"]["attempts"] == len(list((run / "events").glob("*.jsonl")))


def test_doctor_catches_a_metric_whose_score_depends_on_company(photo_paths: list[Path], data_command) -> None:
    from lucidflux_data.iqa.checks import examine

    images = [
        cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    honest = examine(lambda batch: [float(cv2.Laplacian(image, cv2.CV_64F).var()) for image in batch], False, images)
    assert honest["batch_invariant"]
    assert honest["blur"] == 1.0
    assert honest["noise_direction"] == "wrong", "noise raises the raw Laplacian variance"
    crowd = examine(lambda batch: [float(image.mean()) + 5 * len(batch) for image in batch], False, images)
    assert not crowd["batch_invariant"]
    done = data_command("doctor", "niqe", "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)["niqe"]
    assert card["batch_invariant"]
    assert card["blur_direction"] == "right"


def test_doctor_takes_its_photos_out_of_tars_and_tables(photo_paths: list[Path], tmp_path: Path) -> None:
    large = [path for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee", "rocket")]
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in large:
            tar.add(path, path.name)
    images = pa.array([path.read_bytes() for path in large], pa.binary())
    pq.write_table(pa.table({"image": images}), tmp_path / "photos.parquet")
    cards = [examine_metrics(["niqe"], tmp_path / name) for name in ("photos.tar", "photos.parquet")]
    assert cards[0] == cards[1], "of the same photos in the same order"
