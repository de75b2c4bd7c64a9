"""`lucidflux restore` as a user runs it, with `tiny`: names, kinds of images, resume, Ray, damaged files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import cli
from lucidflux_data.errors import ConfigError
from lucidflux_data.sources.listing import list_sources
from lucidflux_model.inference.config import ModelConfig
from lucidflux_model.inference.loading import load_pipeline
from lucidflux_model.inference.pipeline import LucidFluxPipeline
from lucidflux_model.network.build import build_random
from lucidflux_model.network.schedule import make_scheduler
from lucidflux_model.weights.published import save_lucidflux
from pipelines.execution.worker import Unit
from pipelines.restoration.config import RestoreConfig
from pipelines.restoration.lucidflux import LucidFluxRestorer
from pipelines.restoration.rows import make_work_list
from pipelines.restoration.unit import RestoreUnit, encode
from tests.support.commands import next_commands

torch.set_num_threads(1)  # see tests/lucidflux_model/conftest.py
LUCIDFLUX = str(Path(sys.executable).with_name("lucidflux"))
FAST = ("--model", "tiny", "--steps", "1", "--upscale", "1")


def restore(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    command = [LUCIDFLUX, "restore", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, **options)


def restore_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same entry point in this process: importing torch takes longer than restoring small images."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    command = ["lucidflux", "restore", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        try:
            cli.lucidflux_main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def inputs(photo_paths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos from 64 to 1000 px: odd sides, grey, alpha, EXIF-rotated, palette, 16 bits; and what is none."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "sub").mkdir()
    photo = {path.stem: path for path in photo_paths}
    astronaut = Image.open(photo["astronaut"]).convert("RGB")
    astronaut.resize((64, 64)).save(folder / "square.png")
    astronaut.crop((30, 20, 181, 117)).save(folder / "odd.jpg")
    astronaut.crop((30, 20, 181, 117)).save(folder / "odd.png")  # shares its stem
    astronaut.crop((0, 0, 80, 100)).save(folder / "v1.2.final.webp")
    Image.open(photo["camera"]).resize((99, 67)).save(folder / "sub" / "grey.png")
    Image.open(photo["logo"]).convert("RGBA").resize((96, 96)).save(folder / "sub" / "alpha.png")
    rotated = Image.open(photo["chelsea"]).resize((90, 60))
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(folder / "sub" / "rotated.jpg", exif=exif, quality=95)
    retina = Image.open(photo["retina"]).resize((1000, 665))
    retina.save(folder / "large.jpg", quality=90)
    deep = np.random.default_rng(0).integers(0, 65536, (64, 70, 3), dtype=np.uint16)
    cv2.imwrite(str(folder / "deep.png"), deep)
    data = (folder / "large.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("not an image")
    (folder / "notes.txt").write_text("ignored")
    return folder


@pytest.fixture(scope="module")
def outputs(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outputs") / "restored"
    done = restore(inputs, "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    assert "checks the plumbing, restores nothing" in done.stderr
    repeat, weights = next_commands(done.stdout, "lucidflux restore")
    assert repeat == f"lucidflux restore {inputs} --out {out} --model tiny --steps 1 --upscale 1.0"
    assert weights == "lucidflux weights download --out FILES"
    return out


NAMES = {
    "deep.png": (70, 64),
    "large.png": (1000, 665),
    "odd.jpg.png": (151, 97),
    "odd.png.png": (151, 97),
    "square.png": (64, 64),
    "sub/alpha.png": (96, 96),
    "sub/grey.png": (99, 67),
    "sub/rotated.png": (60, 90),
    "v1.2.final.png": (80, 100),
}


def images(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def test_every_photo_has_its_result_under_its_name(outputs: Path) -> None:
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in images(outputs).items()}
    assert sizes == NAMES
    assert all(Image.open(outputs / name).mode == "RGB" for name in NAMES)


def test_the_result_is_what_the_pipeline_gives(inputs: Path, outputs: Path) -> None:
    pipeline = load_pipeline(ModelConfig(name="tiny"), "fast")
    image = Image.open(inputs / "square.png")
    generator = torch.Generator().manual_seed(123456789)
    expected = pipeline(image, 1, upscale=1, generator=generator).images[0]
    difference = np.asarray(expected).astype(int) - np.asarray(Image.open(outputs / "square.png"))
    assert np.abs(difference).max() <= 1  # threads may round differently


def test_every_input_is_accounted_for(outputs: Path) -> None:
    manifest = json.loads((outputs / "manifest.json").read_text())
    assert (manifest["images"], manifest["restored"]) == (11, 9)
    assert manifest["failed"] == {"not_an_image": 1, "truncated": 1}
    assert manifest["settings"]["seed"] == 123456789
    assert len(manifest["settings"]["weights_sha256"]) == 64
    assert str(outputs) not in json.dumps(manifest)
    for record in manifest["records"]:
        if record["status"] == "ok":
            assert record["sha256"] == hashlib.sha256((outputs / record["name"]).read_bytes()).hexdigest()
            assert record["output"] == list(NAMES[record["name"]])
            assert record["seconds"] > 0
            assert record["peak_memory_bytes"] > 1e8


def test_repeating_does_only_what_is_missing(inputs: Path, outputs: Path) -> None:
    before = images(outputs)
    times = {name: (outputs / name).stat().st_mtime_ns for name in NAMES}
    records = outputs / "records"
    lost = next(path for path in records.iterdir() if json.loads(path.read_text())["name"] == "odd.jpg.png")
    lost.unlink()
    (outputs / "odd.jpg.png").unlink()
    (outputs / ".tmp").mkdir(exist_ok=True)
    (outputs / ".tmp" / "0.part").write_bytes(b"left by a killed run")
    done = restore_here(inputs, "--out", outputs, *FAST, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["restored"] == 9
    assert images(outputs) == before
    changed = [name for name in NAMES if (outputs / name).stat().st_mtime_ns != times[name]]
    assert changed == ["odd.jpg.png"]
    assert not (outputs / ".tmp").exists()


def test_what_was_deleted_cut_changed_or_replaced_is_made_again(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    """The manifest never lists as ok what is not there, and a result is of the input that is there now."""
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    records = {content["name"]: content for content in map(json.loads, map(Path.read_text, out.glob("records/*.json")))}
    names = sorted(name for name, content in records.items() if content["status"] == "ok")
    deleted, cut, flipped = names[:3]
    (out / deleted).unlink()
    (out / cut).write_bytes((out / cut).read_bytes()[:-9])
    data = bytearray((out / flipped).read_bytes())
    data[len(data) // 2] ^= 1
    (out / flipped).write_bytes(data)
    replaced = inputs / "square.png"
    before = replaced.read_bytes()
    assert records["square.png"]["input_sha256"] == hashlib.sha256(before).hexdigest()
    try:
        cv2.imwrite(str(replaced), 255 - cv2.imread(str(replaced)))
        assert restore_here(inputs, "--out", out, *FAST).returncode == 0
        assert (out / "square.png").read_bytes() != (outputs / "square.png").read_bytes()
        again = {name: data for name, data in images(out).items() if name != "square.png"}
        assert again == {name: data for name, data in images(outputs).items() if name != "square.png"}
    finally:
        replaced.write_bytes(before)
    assert restore_here(inputs, "--out", out, *FAST).returncode == 0
    assert images(out) == images(outputs)


def test_killed_interrupted_and_repeated_is_the_same(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [LUCIDFLUX, "restore", str(inputs), "--out", str(out), *FAST]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 100
        while len(list(out.glob("records/*"))) < 2:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.kill()
    assert not (out / "manifest.json").exists()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert "random weights" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        assert "interrupted: repeat the command to resume" in running.stderr.read()
    assert running.returncode == 5
    assert restore_here(inputs, "--out", out, *FAST).returncode == 0
    assert images(out) == images(outputs)


def test_trained_parts_replace_the_models_own(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    other = build_random("tiny", seed=1, parts=("conditioner", "connector"))
    save_lucidflux(other["conditioner"], other["connector"], tmp_path / "lucidflux.safetensors")
    arguments = (
        inputs / "square.png",
        "--out",
        tmp_path / "out",
        *FAST,
        "--trained",
        tmp_path / "lucidflux.safetensors",
    )
    done = restore_here(*arguments)
    assert done.returncode == 0
    assert "random weights" not in done.stderr
    components = build_random("tiny") | other
    pipeline = LucidFluxPipeline(**components, scheduler=make_scheduler())
    generator = torch.Generator().manual_seed(123456789)
    expected = pipeline(Image.open(inputs / "square.png"), 1, upscale=1, generator=generator).images[0]
    assert np.array_equal(np.asarray(expected), np.asarray(Image.open(tmp_path / "out" / "square.png")))
    assert (tmp_path / "out" / "square.png").read_bytes() != (outputs / "square.png").read_bytes()
    save_lucidflux(other["conditioner"], other["connector"], tmp_path / "lucidflux.pth")
    (tmp_path / "lucidflux.safetensors").write_bytes((tmp_path / "lucidflux.pth").read_bytes())
    assert "another weights_sha256" in restore_here(*arguments).stderr


def test_other_settings_want_another_folder(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    done = restore_here(inputs, "--out", outputs, *FAST, "--seed", 1)
    assert done.returncode == 2
    assert "another seed" in done.stderr
    (tmp_path / "mine.txt").write_text("not a result")
    done = restore_here(inputs, "--out", tmp_path, *FAST)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    done = restore_here(inputs, "--out", inputs / "restored", *FAST)
    assert done.returncode == 2
    assert "lies inside" in done.stderr


def test_settings_under_which_nothing_was_restored_may_change(inputs: Path, tmp_path: Path) -> None:
    """A first command that fails before its first image leaves nothing to be told apart from."""
    done = restore_here(inputs / "square.png", "--out", tmp_path / "out", *FAST, "--device", "cuda:9")
    assert done.returncode == 2
    assert "cannot be used" in done.stderr
    assert restore_here(inputs / "square.png", "--out", tmp_path / "out", *FAST, "--seed", 1).returncode == 0
    for wrong in (("--offload", "some"), ("--model", "flux-dev"), ("--quantize", "nf4"), ("--steps", "0.5")):
        assert restore_here(inputs, "--out", tmp_path / "o2", *FAST, *wrong).returncode == 2
    assert restore_here(inputs, "--out", tmp_path / "o2", *FAST, "--weights", tmp_path / "none").returncode == 3
    assert restore_here(inputs, "--out", tmp_path / "o2", *FAST, "--trained", tmp_path / "none").returncode == 3
    assert not (tmp_path / "o2").exists()


@pytest.mark.slow
def test_ray_actors_give_the_same_bytes(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    """From a folder whose own `cli.py` and `pipelines/` must not be met, in batches of two."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = restore(inputs / "sub", "--out", "out", *FAST, "--executor", "ray", "--num-cpus", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "private Ray cluster" in done.stderr
    expected = {name.removeprefix("sub/"): data for name, data in images(outputs).items() if name.startswith("sub/")}
    assert images(tmp_path / "out") == expected


def test_a_sample_goes_on_to_the_whole(inputs: Path, outputs: Path, tmp_path: Path) -> None:
    expected = {name.removeprefix("sub/"): data for name, data in images(outputs).items() if name.startswith("sub/")}
    assert restore_here(inputs / "sub", "--out", tmp_path, *FAST, "--limit", 1).returncode == 0
    ((name, data),) = images(tmp_path).items()
    assert data == expected[name]
    assert restore_here(inputs / "sub", "--out", tmp_path, *FAST).returncode == 0
    assert images(tmp_path) == expected
    assert len(expected) > 1


def test_tars_globs_formats_and_failures(inputs: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for key, name in (("aa", "square.png"), ("bb", "text.png")):
            tar.add(inputs / name, f"{key}.png")
    out = tmp_path / "out"
    globbed = inputs / "sub" / "gre*"
    done = restore_here(tmp_path / "shard.tar", globbed, "--out", out, *FAST, "--format", "jpeg", "--max-failed", 0.2)
    assert done.returncode == 4
    assert "33.3% of the images failed" in done.stderr
    assert sorted(path.name for path in out.glob("*.jpg")) == ["aa.jpg", "grey.jpg"]
    assert Image.open(out / "aa.jpg").format == "JPEG"
    assert restore_here(tmp_path / "nowhere", "--out", tmp_path / "o2", *FAST).returncode == 3
    assert restore_here(inputs, "--out", tmp_path / "o2", "--model", "flux-dev").returncode == 2
    assert restore_here(inputs, "--out", tmp_path / "o2", *FAST, "--schedule", "karras").returncode == 2


def test_a_result_over_the_limit_is_a_failure_of_that_image(inputs: Path, tmp_path: Path) -> None:
    arguments = (inputs / "large.jpg", inputs / "square.png", "--out", tmp_path / "out", *FAST, "--json")
    done = restore_here(*arguments, "--set", "max_output_pixels=10000", "--set", "batch=2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failed"] == {"too_many_pixels": 1}
    assert result["restored"] == 1


def test_an_image_that_does_not_fit_is_a_failure_of_that_image(inputs: Path, tmp_path: Path) -> None:
    """With 9 GB of address space, a 4000 x 2660 result without tiles cannot be had."""
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (9 << 30, 9 << 30))
    arguments = (
        inputs / "large.jpg",
        inputs / "square.png",
        "--out",
        tmp_path / "out",
        "--model",
        "tiny",
        "--steps",
        1,
    )
    done = restore(*arguments, "--upscale", 4, "--tile", 0, "--device", "cpu", "--json", preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == {"out_of_memory": 1}
    assert Image.open(tmp_path / "out" / "square.png").size == (256, 256)


def test_a_dry_run_names_the_results(inputs: Path, tmp_path: Path) -> None:
    done = restore_here(inputs / "sub", "--out", tmp_path / "out", *FAST, "--dry-run", "--json")
    assert json.loads(done.stdout)["names"] == ["alpha.png", "grey.png", "rotated.png"]
    assert not (tmp_path / "out").exists()


def test_names_that_would_collide_are_refused(tmp_path: Path) -> None:
    table = pa.table({"uri": ["file:///x/a.png", "file:///y/a.png"], "source_key": ["a.png", "a.png"]})
    with pytest.raises(ConfigError, match="would both become a\\.png\\.png"):
        make_work_list(table, "png")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{folder}.png")
    table = list_sources([str(tmp_path / "x"), str(tmp_path / "y")]).table
    assert [row["name"] for row in make_work_list(table, "jpeg")] == ["x.jpg", "y.jpg"]


def test_encoded_pixels_are_the_rounded_ones() -> None:
    image = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
    eight = np.asarray(Image.open(io.BytesIO(encode(image, "png", 95))))
    assert np.array_equal(eight, np.round(image.astype(np.float64) * 255))
    deep = cv2.imdecode(np.frombuffer(encode(image, "png16", 95), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(deep[..., ::-1], np.round(image.astype(np.float64) * 65535))
    assert Image.open(io.BytesIO(encode(image, "jpeg", 95))).layer[1][1:3] == (1, 1)  # no chroma subsampling


def test_settings_that_do_not_change_the_result_are_not_in_it() -> None:
    config = RestoreConfig.model_validate({"model": {"name": "tiny", "offload": "group", "device": "cpu"}})
    assert config.model_dump() == RestoreConfig.model_validate({"model": {"name": "tiny"}}).model_dump()


def test_the_model_that_checks_the_plumbing_is_asked_for_little(inputs: Path, tmp_path: Path) -> None:
    """4 steps at the size of the input, unless said otherwise; a line tells how long an image will take."""
    tiny = RestoreConfig.model_validate({"model": {"name": "tiny"}})
    assert (tiny.steps, tiny.upscale) == (4, 1)
    asked = RestoreConfig.model_validate({"model": {"name": "tiny"}, "steps": "28", "upscale": "4"})
    assert (asked.steps, asked.upscale) == (28, 4)
    assert (RestoreConfig().steps, RestoreConfig().upscale) == (28, 4)
    done = restore_here(inputs / "square.png", "--out", tmp_path / "out", "--model", "tiny")
    assert done.returncode == 0, done.stderr
    assert re.search(r"64x64 in 4 steps: about \d+ s an image, \d+\.\d s a step", done.stderr)
    assert Image.open(tmp_path / "out" / "square.png").size == (64, 64)


def test_seconds_are_said_before_the_first_image(inputs: Path, tmp_path: Path) -> None:
    """By a piece of it that is restored first, which changes no pixel."""
    for name in ("a", "b"):
        Image.open(inputs / "square.png").resize((272, 64)).save(tmp_path / f"{name}.png")
    settings = {"model": {"name": "tiny", "device": "cpu"}, "steps": 2}
    rows = make_work_list(list_sources([str(tmp_path)]).table, "png")
    said: list[str] = []
    told = dict(RestoreUnit(RestoreConfig.model_validate(settings), said.append)(Unit("first", 1, rows[:1])))
    first, during = said
    assert re.fullmatch(r"272x64: about [\d.]+ (s|min \d+ s) an image, by a small piece of it", first)
    assert during.startswith("272x64 in 2 steps: about ")
    quiet = dict(RestoreUnit(RestoreConfig.model_validate(settings))(Unit("first", 1, rows[:1])))
    assert told["a.png"] == quiet["a.png"]


def test_a_step_is_foretold_by_the_operations_of_its_tiles() -> None:
    """16 pixels a token; each tile sees the prompt and the tokens of the vision tower beside its own."""
    whole, tiled = (
        LucidFluxRestorer(RestoreConfig.model_validate({"model": {"name": "tiny"}, "tile": tile, "overlap": 64}))
        for tile in (0, 128)
    )
    prompt, vision = whole._pipeline.prompt(1)[0].shape[1], whole._pipeline.image_encoder
    condition = prompt + vision(torch.zeros(1, 3, *[vision.config.image_size] * 2)).last_hidden_state.shape[1]
    across = whole._pipeline.transformer.transformer_blocks[0].attn.to_q.in_features
    one, half = 12 * 16 + condition, 8 * 8 + condition
    assert whole._work(192, 250) == one * (6 * across + one)
    assert tiled._work(192, 128) == 2 * half * (6 * across + half)


def test_one_side_alone_keeps_the_aspect_ratio(inputs: Path, tmp_path: Path) -> None:
    done = restore_here(inputs / "odd.png", "--out", tmp_path / "out", *FAST, "--set", "height=48")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "odd.png").size == (round(151 * 48 / 97), 48)


def test_tiles_that_cannot_be_are_told_before_any_work(inputs: Path, tmp_path: Path) -> None:
    for wrong in (("--tile", 100), ("--tile", 128), ("--tile", 256, "--set", "overlap=100")):
        done = restore_here(inputs, "--out", tmp_path / "out", *FAST, *wrong)
        assert done.returncode == 2, done.stderr
        assert "multiples of 64 pixels" in done.stderr
    assert not (tmp_path / "out").exists()
