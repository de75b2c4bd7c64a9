"""Validating on a benchmark marks what is trained, from the run to the row of the leaderboard."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError, InputError, Interrupted
from lucidflux_data.images import decode, luma
from lucidflux_data.iqa.niqe import niqe
from lucidflux_data.measures.fingerprints import fingerprint_file, known_suites
from lucidflux_data.sources.bundled import bundled_photos
from lucidflux_model.conversion.convert import export as export_converted
from lucidflux_model.network.build import build_random
from lucidflux_model.samples.suites import SuiteImages
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.contamination import read_mark, suites_shown
from lucidflux_model.weights.published import load_lucidflux
from pipelines.bench.making import Place
from pipelines.bench.own import contaminated_suites
from tests.support import training
from tests.support.commands import next_commands

SUITE = "offline-photos"
SMALL = ("validation.samples=2", "validation.images=1", "validation.steps=1", "validation.every=1", "batch_size=1")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """A cache and suites of its own: what is prepared for the user of this machine would mark runs too."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("LUCIDFLUX_SUITES", str(folder / "suites"))
        yield folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    return training.make_pairs(training.make_photos(root / "photos"), root / "pairs")


def call(*arguments: object) -> dict:
    done = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def validated(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, by the command, with the suite measured after each."""
    out = tmp_path_factory.mktemp("validated") / "run"
    settings = [part for setting in (*training.SETTINGS, *SMALL, "steps=2") for part in ("--set", setting)]
    told = call("train", "--data", pairs, "--out", out, *settings, "--validate-on", SUITE)
    assert told["contaminated"] == [SUITE]
    return out


def test_a_suite_is_measured_like_pairs_that_are_held_out(validated: Path, home: Path) -> None:
    lines = [json.loads(line) for line in (validated / "metrics.jsonl").read_text().splitlines()]
    figures = [line["validation"]["suites"][SUITE] for line in lines]
    assert [figure.keys() for figure in figures] == [
        {"loss", "loss_by_sigma", "ema_loss", "ema_loss_by_sigma", "psnr", "ssim"}
    ] * 2
    (strip,) = (validated / "validation" / "step-00000002" / SUITE).iterdir()
    pixels = cv2.imread(str(strip))[..., ::-1]
    reference = decode((home / "suites" / SUITE / "gt" / strip.name).read_bytes())
    assert np.array_equal(pixels[:, -288:], reference)
    error = np.mean((pixels[:, 576:864].astype(float) - reference) ** 2)
    assert figures[1]["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    page = (validated / "report.html").read_text()
    assert f"Validated on {SUITE}" in page


def test_the_mark_survives_resume_without_the_suite_and_is_in_every_checkpoint(
    validated: Path, pairs: Path, tmp_path: Path
) -> None:
    training.copy(validated, tmp_path / "run")
    before = json.loads((latest(tmp_path / "run") / "progress.json").read_text())
    assert before["contaminated"] == [SUITE]
    said: list[str] = []
    training.run(pairs, tmp_path / "run", *SMALL, "steps=3", say=said.append)
    assert json.loads((latest(tmp_path / "run") / "progress.json").read_text())["contaminated"] == [SUITE]
    assert any("contaminated" in line and SUITE in line for line in said)
    assert "validation" not in json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert read_mark(tmp_path / "run") == [SUITE]
    (tmp_path / "run" / "run.json").unlink()
    assert read_mark(tmp_path / "run") == [SUITE], "by the checkpoint alone"


@pytest.mark.parametrize("kind", ["safetensors", "pth", "run"])
def test_the_mark_goes_from_export_into_whatever_begins_from_it(
    validated: Path, pairs: Path, tmp_path: Path, kind: str
) -> None:
    init = validated
    if kind != "run":
        init = tmp_path / f"exported.{kind}"
        call("weights", "export", validated, "--out", init)
    assert read_mark(init) == [SUITE]
    summary = training.run(pairs, tmp_path / "next", "steps=1", "batch_size=1", init=str(init))
    assert summary["contaminated"] == [SUITE]
    assert read_mark(tmp_path / "next" / "trained.safetensors") == [SUITE]


def test_the_card_beside_an_export_says_what_the_run_recorded(validated: Path, tmp_path: Path) -> None:
    told = call("weights", "export", validated, "--out", tmp_path / "lucidflux.safetensors")
    text = Path(told["card"]).read_text()
    run = json.loads((validated / "run.json").read_text())
    for part in (f"**Validated on {SUITE}**", "Trained for 2 steps of 1 pairs", f"digest `{run['data']['digest']}`",
                 hashlib.sha256((tmp_path / "lucidflux.safetensors").read_bytes()).hexdigest(),
                 "The licence of the training data is not recorded here"):  # fmt: skip
        assert part in text
    assert "base_model" not in text, "tiny has none"
    assert str(validated.parent) not in text
    again = call("weights", "export", validated, "--out", tmp_path / "lucidflux.safetensors")
    assert Path(again["card"]).read_text() == text
    (tmp_path / "README.md").write_text("my own")
    third = call("weights", "export", validated, "--out", tmp_path / "lucidflux.safetensors")
    assert "card" not in third
    assert any("it stays, and the weights have no card" in warning for warning in third["warnings"])
    assert (tmp_path / "README.md").read_text() == "my own"


def test_a_marked_pickle_is_read_as_the_published_one(validated: Path, tmp_path: Path) -> None:
    """By part, as the published inference does, and by our loader."""
    path = tmp_path / "new" / "lucidflux.pth"
    done = CliRunner().invoke(cli.app, ["weights", "export", str(validated), "--out", str(path)])
    (restore,) = next_commands(done.stdout, "lucidflux weights export")
    assert restore.endswith(f"--trained {path}")
    content = torch.load(path, weights_only=True)
    assert content.pop("contaminated") == SUITE
    parts = build_random("tiny", 1, parts=("conditioner", "connector"))
    load_lucidflux(parts["conditioner"], parts["connector"], path)
    assert torch.equal(
        parts["conditioner"].modulation_lq.linear.weight, content["modulation_lq"]["linear.weight"].float()
    )


def test_an_export_that_cannot_be_written_is_one_sentence(validated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told = CliRunner().invoke(cli.app, ["weights", "export", str(validated), "--out", str(tmp_path / "file" / "a.pth")])
    assert isinstance(told.exception, Interrupted)
    assert "could not be written" in str(told.exception)


def test_converted_weights_keep_the_mark(validated: Path, tmp_path: Path) -> None:
    """weights.json of a folder, as `weights convert` writes it; what is exported from it, what is inferred with it."""
    folder = tmp_path / "converted"
    for name, part in build_random("tiny", parts=("conditioner", "connector")).items():
        part.save_pretrained(folder / name)
    (folder / "weights.json").write_text(json.dumps({"model": "tiny", "files": {}, "contaminated": [SUITE]}))
    export_converted(folder, tmp_path / "again.safetensors")
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert file.metadata()["contaminated"] == SUITE
    assert contaminated_suites(Place(weights=str(folder))) == [SUITE]
    clean = validated.parent / "clean.safetensors"
    (folder / "weights.json").write_text(json.dumps({"model": "tiny", "files": {}}))
    export_converted(folder, clean)
    assert contaminated_suites(Place(weights=str(folder), trained=str(clean))) == []
    with safe_open(clean, "pt") as file:
        assert "contaminated" not in (file.metadata() or {})


def test_the_row_of_the_leaderboard_is_flagged(validated: Path, tmp_path: Path) -> None:
    trained, outputs = validated / "trained.safetensors", tmp_path / "outputs"
    method = "lucidflux[flux,1]"
    for name in (method, "bicubic"):
        more = ["--model", "tiny", "--trained", trained] if name == method else []
        call("bench", "infer", name, "--suite", SUITE, "--out", outputs, "--limit", 2, *more)
    folders = sorted(outputs.iterdir())
    assert len(folders) == 2
    more = ["--limit", 2, "--metrics", "psnr", "--out", tmp_path / "board"]
    board = call("bench", "--suite", SUITE, "--outputs", *folders, *more)
    flags = board["flags"]
    sentence = f"contaminated: the checkpoint was validated on {SUITE}"
    (ours,) = [name for name in flags if name.startswith("lucidflux")]
    assert flags[ours][0] == sentence
    assert sentence not in flags["bicubic"]
    assert sentence in (tmp_path / "board" / "leaderboard.md").read_text()


def make_suite(folder: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """A prepared suite without references: crops of a photo, (height, width) of each."""
    (folder / "lq").mkdir(parents=True)
    photo = decode(next(path for path in bundled_photos() if path.stem == "chelsea").read_bytes())
    for id_, (height, width) in sizes.items():
        cv2.imwrite(str(folder / "lq" / f"{id_}.png"), photo[100 : 100 + height, 100 : 100 + width, ::-1])
    images = {id_: {"lq": {"file": f"{id_}.png"}} for id_ in sizes}
    (folder / "suite.json").write_text(json.dumps({"name": "mine", "version": "1", "scale": 4, "images": images}))
    return folder


def test_a_suite_without_references_of_any_sizes_is_measured_by_niqe(pairs: Path, tmp_path: Path) -> None:
    suite = make_suite(tmp_path / "mine", {"a": (50, 53), "b": (49, 75)})
    settings = (*SMALL, "steps=1", "validation.images=2", f"validation.suites={suite}")
    summary = training.run(pairs, tmp_path / "run", *settings)
    assert summary["contaminated"] == ["mine"]
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    figures = line["validation"]["suites"]["mine"]
    assert figures.keys() == {"niqe"}
    folder = tmp_path / "run" / "validation" / "step-00000001" / "mine"
    widths = {"a": 212, "b": 300}
    strips = {path.stem: cv2.imread(str(path))[..., ::-1] for path in folder.iterdir()}
    assert {id_: strip.shape[:2] for id_, strip in strips.items()} == {"a": (200, 636), "b": (196, 900)}
    values = [niqe(np.ascontiguousarray(strips[id_][:, 2 * widths[id_] :])) for id_ in ("a", "b")]
    assert figures["niqe"] == pytest.approx(np.mean(values), rel=1e-6)


def test_what_is_no_prepared_suite_is_told(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no prepared suite"):
        SuiteImages(str(tmp_path))
    (tmp_path / "suite.json").write_text(json.dumps({"name": "old", "images": {}}))
    with pytest.raises(InputError, match="of an older version: prepare it again"):
        SuiteImages(str(tmp_path))
    suite = make_suite(tmp_path / "mine", {"a": (26, 30)})
    with pytest.raises(ConfigError, match="names a suite twice: mine, mine"):
        training.run(pairs, tmp_path / "run", "steps=1", f"validation.suites={suite},{suite}")
    told = CliRunner().invoke(
        cli.app, ["train", "--data", str(pairs), "--out", str(tmp_path / "x"), "--validate-on", "reallq250"]
    )
    assert isinstance(told.exception, ConfigError)
    assert "bench prepare reallq250 --from ARCHIVE" in str(told.exception)


def remember(name: str, photos: list[Path]) -> Path:
    """A fingerprint file where `bench prepare` leaves it."""
    pictures = [(path.stem, path.read_bytes(), luma(decode(path.read_bytes()))) for path in photos]
    known_suites().mkdir(parents=True, exist_ok=True)
    path = known_suites() / f"{name}.parquet"
    path.write_bytes(fingerprint_file(pictures, name))
    return path


def test_held_out_pairs_that_show_a_known_suite_mark_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has named the suite: its fingerprints are in the cache, and the pairs are cut out of its images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = training.make_photos(tmp_path / "photos")
    pairs = training.make_pairs(photos, tmp_path / "pairs", "degrade.size=256", "variants=1")
    others = [path for path in bundled_photos() if path.stem in ("brick", "camera", "grass", "gravel")]
    known = [remember("elsewhere", others)]
    settings = ("steps=1", "batch_size=1", "validation.fraction=0.5", "validation.images=0", "validation.samples=6")
    assert "contaminated" not in training.run(pairs, tmp_path / "clean", *settings)
    known.append(remember("secret", list(photos.iterdir())))
    said: list[str] = []
    summary = training.run(pairs, tmp_path / "seen", *settings, say=said.append)
    assert summary["contaminated"] == ["secret"]
    assert sum("show images of the benchmark suite secret" in line for line in said) == 1
    known.append(known_suites() / "damaged.parquet")
    known[-1].write_bytes(b"no")
    picture = decode((photos / "chelsea.png").read_bytes())[20:280, 60:400]
    for name, images, listed in (("empty", 0, 0), ("partly", 1, 3)):
        known.append(known_suites() / f"{name}.parquet")
        known[-1].write_bytes(fingerprint_file([("a", b"", np.zeros((99, 99), np.uint8))][:images], name, listed))
    assert suites_shown([picture], known) == (["secret"], ["damaged.parquet", "empty.parquet", "partly.parquet"])
