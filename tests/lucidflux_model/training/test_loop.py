"""Runs of the tiny model in this process: exact resume, what changes, guards, validation, export."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lucidflux_data.codecs import version
from lucidflux_data.errors import ConfigError, InputError, Interrupted, VerificationError
from lucidflux_data.shards.shard import read_index_metadata
from lucidflux_data.storage.folder import Folder
from lucidflux_model.inference.config import ModelConfig
from lucidflux_model.inference.loading import load_pipeline
from lucidflux_model.network.build import TRAINED, build_random
from lucidflux_model.samples.cached import Sidecars
from lucidflux_model.samples.reading import Unreadable
from lucidflux_model.samples.sources import open_shards
from lucidflux_model.training.checkpoints import PLACE, latest, read_trained
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.model import FROZEN
from lucidflux_model.training.progress.validation import choose
from lucidflux_model.training.setup import export, prepare_model
from lucidflux_model.weights.published import lucidflux_state
from pipelines.execution.progress import Progress
from pipelines.training.encode import cache
from tests.support import training
from tests.support.training import damage

CPU = Runtime(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def control(train_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven steps in one go; the second epoch begins in the fourth."""
    out = tmp_path_factory.mktemp("control") / "run"
    training.run(train_pairs, out, "steps=7")
    return out


def test_three_steps_and_four_more_equal_seven(train_pairs: Path, control: Path, tmp_path: Path) -> None:
    training.run(train_pairs, tmp_path, "steps=3")
    training.run(train_pairs, tmp_path, "steps=7")
    assert training.differing(tmp_path, control) == []
    assert training.lines(tmp_path) == training.lines(control)
    assert [line["step"] for line in training.lines(control)] == list(range(1, 8))
    assert len([name for name in training.state(control) if name.startswith("ema.")]) > 100
    assert [(line["epoch"], line["consumed"]) for line in training.lines(control)][2:4] == [(1, 0), (1, 4)]


@pytest.mark.slow
def test_adafactor_resumes_exactly_too(train_pairs: Path, tmp_path: Path) -> None:
    settings = ("optimizer=adafactor", "ema=0", "batch_size=2")
    training.run(train_pairs, tmp_path / "whole", "steps=4", *settings)
    training.run(train_pairs, tmp_path / "parts", "steps=2", *settings)
    training.run(train_pairs, tmp_path / "parts", "steps=4", *settings)
    assert training.differing(tmp_path / "whole", tmp_path / "parts") == []
    assert training.lines(tmp_path / "whole") == training.lines(tmp_path / "parts")
    assert any("exp_avg_sq_row" in name for name in training.state(tmp_path / "whole"))


@pytest.mark.parametrize("how", ["full", "selective"])
def test_checkpointing_changes_nothing(train_pairs: Path, control: Path, tmp_path: Path, how: str) -> None:
    training.run(train_pairs, tmp_path, "steps=3", f"checkpointing={how}")
    for ours, theirs in zip(training.lines(tmp_path), training.lines(control), strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def test_two_pieces_of_two_equal_one_batch_of_four(train_pairs: Path, control: Path, tmp_path: Path) -> None:
    training.run(train_pairs, tmp_path, "steps=7", "micro_batch=2")
    for ours, theirs in zip(training.lines(tmp_path), training.lines(control), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        bins = [[loss or 0 for loss in line["loss_by_sigma"]] for line in (ours, theirs)]
        assert bins[0] == pytest.approx(bins[1], rel=1e-5)
    whole, parts = training.state(control), training.state(tmp_path)
    names = [name for name in whole if name.startswith("model.")]
    difference = torch.cat([(whole[name] - parts[name]).abs().flatten() for name in names])
    assert difference.max() < 1e-4  # a step is up to 1e-3
    assert difference.mean() < 1e-7


def test_only_what_is_trained_changes(train_pairs: Path, tmp_path: Path) -> None:
    models = []
    from lucidflux_model.training import setup as train_setup

    original = train_setup.Parallel

    class Watched(original):  # keeps the model of the run, to look at it afterwards
        def __init__(self, model, *rest) -> None:
            models.append(model)
            super().__init__(model, *rest)

    train_setup.Parallel = Watched
    try:
        training.run(train_pairs, tmp_path, "steps=3")
    finally:
        train_setup.Parallel = original
    before = prepare_model(training.config_of(), CPU, None).state_dict()
    after = models[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, parameter in models[0].named_parameters() if parameter.requires_grad}
    assert changed == trained
    assert {name.split(".")[0] for name in set(before) - changed} >= set(FROZEN)


def test_loss_of_a_run_by_hand(train_pairs: Path, tmp_path: Path) -> None:
    """The first step with a backbone whose last layer is zero: the prediction is zero, so the loss is the mean of
    (noise - x0)^2, from diffusers' autoencoder and torch's generator."""
    from lucidflux_model.samples.stream import Order, hash64

    base = tmp_path / "base"
    for name, component in build_random("tiny", parts=FROZEN).items():
        if name == "transformer":
            torch.nn.init.zeros_(component.proj_out.weight)
            torch.nn.init.zeros_(component.proj_out.bias)
        if name == "vae":
            vae = component
        component.save_pretrained(base / name)
    training.run(train_pairs, tmp_path / "run", "steps=1", f"model.weights={base}")
    source = open_shards([str(train_pairs)], Folder(tmp_path))
    order = Order(np.arange(12), source.shard_of, 0, 4)
    losses = []
    for position in range(4):
        hq, _ = source.read(order.at(position)[1], 0)
        pixels = torch.from_numpy(hq.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            clean = (vae.encode(pixels).latent_dist.mean - 0.1159) * 0.3611
        noise = torch.randn(16, 12, 12, generator=torch.Generator().manual_seed(hash64(0, "noise", position)))
        losses.append(((noise - clean[0]) ** 2).mean().item())
    (line,) = training.lines(tmp_path / "run")
    assert line["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert line["loss"] > 1


def test_four_pairs_are_learned_by_heart(train_photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("astronaut.png", "coffee.png"):
        shutil.copyfile(train_photos / name, few / name)
    pairs = training.make_pairs(few, tmp_path / "pairs")
    training.run(pairs, tmp_path / "run", "steps=45", "learning_rate=5e-3", "warmup=5", "checkpoint_every=1000")
    losses = [line["loss"] for line in training.lines(tmp_path / "run")]
    assert np.mean(losses[-10:]) < 0.45 * np.mean(losses[:3])


def test_the_export_is_what_restore_loads(control: Path, tmp_path: Path) -> None:
    """trained.safetensors has the moving average, in the published names."""
    pipeline = load_pipeline(ModelConfig(name="tiny", trained=str(control / "trained.safetensors")), "fast")
    shadows = training.state(control)
    for part in TRAINED:
        for name, tensor in getattr(pipeline, part).state_dict().items():
            wanted = shadows.get(f"ema.{part}.{name}", shadows[f"model.{part}.{name}"])
            assert torch.equal(tensor, wanted), name
    image = np.full((24, 24, 3), 128, np.uint8)
    output = pipeline(image, num_inference_steps=2, upscale=4, output_type="np").images[0]
    assert output.shape == (96, 96, 3)
    assert np.isfinite(output).all()
    export(control, tmp_path / "raw.safetensors", averaged=False)
    raw, averaged = load_file(tmp_path / "raw.safetensors"), load_file(control / "trained.safetensors")
    assert raw.keys() == averaged.keys()
    assert torch.equal(raw["modulation_lq.linear.weight"], shadows["model.conditioner.modulation_lq.linear.weight"])


@pytest.mark.parametrize("kind", ["file", "run"])
def test_init_begins_from_trained_weights(train_pairs: Path, control: Path, tmp_path: Path, kind: str) -> None:
    init = control / "trained.safetensors" if kind == "file" else control
    model = prepare_model(training.config_of(), CPU, str(init))
    read = read_trained(latest(control), "tiny")
    ours = lucidflux_state(model.conditioner, model.connector)
    theirs = lucidflux_state(read["conditioner"], read["connector"])
    assert all(torch.equal(ours[part][name], theirs[part][name]) for part in ours for name in ours[part])
    assert sum(parameter.requires_grad for parameter in model.parameters()) > 100
    training.run(train_pairs, tmp_path, "steps=1", init=str(init))
    assert training.lines(tmp_path)[0]["loss"] < training.lines(control)[0]["loss"]


def test_validation_is_fixed_and_saves_strips(train_pairs: Path, tmp_path: Path) -> None:
    settings = ("validation.fraction=0.4", "validation.every=1", "validation.images=1", "validation.steps=1")
    settings += ("validation.samples=2", "batch_size=1")
    training.run(train_pairs, tmp_path / "a", "steps=2", *settings)
    training.run(train_pairs, tmp_path / "b", "steps=1", *settings)
    training.run(train_pairs, tmp_path / "b", "steps=2", *settings)
    told = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("a", "b")
    }
    measured = {name: [line["validation"] for line in told[name] if "validation" in line] for name in told}
    assert measured["a"] == measured["b"]
    assert len(measured["a"]) == 2
    assert {"loss", "loss_by_sigma", "ema_loss", "ema_loss_by_sigma", "psnr", "ssim"} == measured["a"][0].keys()
    assert training.differing(tmp_path / "a", tmp_path / "b") == []
    (strip,) = (tmp_path / "a" / "validation" / "step-00000002").glob("*.png")
    pixels = cv2.imread(str(strip))[..., ::-1]
    assert pixels.shape == (96, 4 * 96, 3)
    source = open_shards([str(train_pairs)], Folder(tmp_path))
    index = source._names().index(strip.stem)
    hq, lq = source.read(index, 0)
    assert np.array_equal(pixels[:, :96], lq)
    assert np.array_equal(pixels[:, -96:], hq)
    error = np.mean((pixels[:, 192:288].astype(float) - hq) ** 2)
    assert measured["a"][1]["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("data-chart=") >= 8
    assert "plumbing" in page


def test_one_pair_of_a_group_is_measured() -> None:
    keys = [f"{i:020d}_{v:02d}" for i in range(9) for v in range(4)]
    groups = [key[:20] for key in keys]
    chosen = choose(range(36), groups, keys, 5)
    assert len({groups[index] for index in chosen}) == 5
    assert chosen == choose(list(reversed(range(36))), groups, keys, 5)
    more = choose(range(36), groups, keys, 9)
    assert more[:5] == chosen


def test_damaged_pairs_are_counted_and_over_the_limit_the_run_stops(train_pairs: Path, tmp_path: Path) -> None:
    broken = damage(train_pairs, tmp_path / "broken", "hq", 3, 7)
    said: list[str] = []
    training.run(broken, tmp_path / "run", "steps=6", "batch_size=2", say=said.append)
    assert [line["corrupt"] for line in training.lines(tmp_path / "run")][-1] == 2
    assert sum("its hq has changed" in line for line in said) == 2
    with pytest.raises(InputError, match=r"2 pairs could not be read, over data.max_corrupt=1"):
        training.run(broken, tmp_path / "other", "steps=6", "batch_size=2", "data.max_corrupt=1")


def test_numbers_that_are_not_finite_are_skipped_then_stop_the_run(
    train_pairs: Path, control: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    for name, component in build_random("tiny", parts=FROZEN).items():
        if name == "vae":
            component.encoder.conv_in.bias.data[0] = float("nan")
        component.save_pretrained(base / name)
    with pytest.raises(InputError, match=r"not finite in 3 steps in a row, up to step 3"):
        training.run(train_pairs, tmp_path / "run", "steps=7", f"model.weights={base}", "max_skipped=3")
    lines = training.lines(tmp_path / "run")
    assert [line["skipped"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == [None, None, None]
    assert latest(tmp_path / "run") is None, "nothing that is not finite was saved"


def test_a_run_is_not_mistaken_for_another(train_pairs: Path, control: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        training.run(train_pairs, control, "steps=8", resume=False)
    with pytest.raises(ConfigError, match="begun with another optimizer"):
        training.run(train_pairs, control, "steps=8", "optimizer=adafactor")
    with pytest.raises(ConfigError, match="goes on from its own checkpoint"):
        training.run(train_pairs, control, "steps=8", init=str(control))
    with pytest.raises(ConfigError, match=r"begun with another base_sha256, model\.seed"):
        training.run(train_pairs, control, "steps=8", "model.seed=1")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        training.run(train_pairs, tmp_path, "steps=8")


def test_a_checkpoint_of_another_model_is_refused(train_pairs: Path, control: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not of the model flux-dev"):
        read_trained(latest(control), "flux-dev")
    shutil.copytree(control, tmp_path / "run")
    path = latest(tmp_path / "run")
    (path / "rank-00000.safetensors").write_bytes(b"damaged")
    with pytest.raises(VerificationError, match=r"rank-00000\.safetensors is damaged"):
        training.run(train_pairs, tmp_path / "run", "steps=8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is neither a file of trained weights"):
        prepare_model(training.config_of(), CPU, str(tmp_path / "empty"))


def test_what_cannot_start_is_told(train_pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flux-dev needs --weights"):
        training.run(train_pairs, tmp_path / "a", "model.name=flux-dev")
    with pytest.raises(InputError, match=r"has no transformer, vae, proxy, image_encoder, prompt"):
        training.run(train_pairs, tmp_path / "b", f"model.weights={tmp_path}")
    with pytest.raises(ConfigError, match="cannot be dealt to 3 processes"):
        training.run(train_pairs, tmp_path / "c", runtime=Runtime(0, 3, torch.device("cpu")))
    with pytest.raises(ConfigError, match="micro_batch=3 does not divide"):
        training.run(train_pairs, tmp_path / "d", "micro_batch=3")
    with pytest.raises(InputError, match="all of the pairs are held out"):
        training.run(train_pairs, tmp_path / "e", "validation.fraction=1")
    with pytest.raises(ConfigError, match=r"flow_shift belongs to"):
        training.config_of("flow_shift=2", "timestep_sampling=logit-normal")


def test_a_full_disk_leaves_the_last_checkpoint(train_pairs: Path, tmp_path: Path) -> None:
    """Files may not grow over 1 MB here, as on a disk with so much left: those of a checkpoint do."""
    training.run(train_pairs, tmp_path, "steps=1")
    before = {path: path.read_bytes() for path in (tmp_path / PLACE).rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(Interrupted) as raised:
            training.run(train_pairs, tmp_path, "steps=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "step-00000002 could not be written" in str(raised.value)
    assert "File too large" in str(raised.value)
    assert "step-00000001, is untouched" in str(raised.value)
    assert {path: path.read_bytes() for path in (tmp_path / PLACE).rglob("*") if path.is_file()} == before
    training.run(train_pairs, tmp_path, "steps=2")
    assert latest(tmp_path).name == "step-00000002"


def test_a_request_to_stop_saves_at_the_boundary(train_pairs: Path, control: Path, tmp_path: Path) -> None:
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="stopped after step 2, checkpoint step-00000002"):
        training.run(train_pairs, tmp_path, "steps=7", stop=lambda: next(asked))
    training.run(train_pairs, tmp_path, "steps=7")
    assert training.differing(tmp_path, control) == []


def test_the_newest_checkpoints_stay_and_no_other(train_pairs: Path, tmp_path: Path) -> None:
    """All where there are fewer than asked for, else as many, down to one; and nothing else beside `latest`."""
    for steps, keep, left in ((3, 3, [1, 2, 3]), (4, 9, [1, 2, 3, 4]), (5, 2, [4, 5]), (6, 1, [6])):
        settings = ("batch_size=1", "checkpoint_every=1", f"keep_checkpoints={keep}")
        training.run(train_pairs, tmp_path, f"steps={steps}", *settings)
        names = sorted(path.name for path in (tmp_path / PLACE).iterdir())
        assert names == ["latest", *(f"step-{step:08d}" for step in left)]
        assert latest(tmp_path).name == f"step-{steps:08d}"


@pytest.mark.slow
def test_compiled_blocks_give_the_same_steps(
    train_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated ahead of time, and run op by op: inductor takes over a minute of a C++ compiler."""
    from torch._dynamo.utils import counters

    original = torch.compile

    def ahead_of_time(function, **options):
        return original(function, **{**options, "backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", ahead_of_time)
    torch.compiler.reset()
    counters.clear()
    training.run(train_pairs, tmp_path / "plain", "steps=2", "batch_size=1")
    assert not counters["stats"]
    training.run(train_pairs, tmp_path / "compiled", "steps=2", "batch_size=1", "compile=true")
    assert counters["stats"]["unique_graphs"] >= 3, "double and single blocks of the backbone, blocks of the branches"
    assert not counters["graph_break"]
    for ours, theirs in zip(training.lines(tmp_path / "compiled"), training.lines(tmp_path / "plain"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    torch.compiler.reset()


def test_cached_latents_train_as_computed_ones(train_pairs: Path, control: Path, tmp_path: Path, monkeypatch) -> None:
    """Latents are stored exactly here; a proxy in 8 bits moves the loss a little."""
    pairs = tmp_path / "pairs"
    shutil.copytree(train_pairs, pairs)
    with pytest.raises(ConfigError, match=r"has no cache of pairs-000000: `lucidflux cache`"):
        training.run(pairs, tmp_path / "none", "steps=2", "data.cached=latent")
    kinds = ("latent", "proxy", "semantic")
    config = training.config_of(f"data.cached={','.join(kinds)}")
    told = cache(str(pairs), config, kinds, "cpu", training.Here(), Progress(True))
    assert (told["pairs"], told["shards"]) == (12, 3)
    files = {path: path.read_bytes() for path in (pairs / "cache").rglob("*") if path.is_file()}
    (first, *_) = sorted(path for path in files if path.suffix == ".tar")
    first.unlink()
    cache(str(pairs), config, kinds, "cpu", training.Here(), Progress(True))
    assert {path: path.read_bytes() for path in (pairs / "cache").rglob("*") if path.is_file()} == files
    about = read_index_metadata(Folder(str(first.parents[1])), f"shards/{first.stem}.index.parquet")
    assert about["decoder"] == str(version.DECODER_VERSION)
    assert "pillow" in json.loads(about["decoders"])
    training.run(pairs, tmp_path / "latent", "steps=2", "data.cached=latent")
    assert [line["loss"] for line in training.lines(tmp_path / "latent")] == [
        line["loss"] for line in training.lines(control)[:2]
    ]
    training.run(pairs, tmp_path / "all", "steps=2", f"data.cached={','.join(kinds)}")
    source = open_shards([str(pairs)], Folder(str(pairs)))
    sidecars = Sidecars(Folder(str(first.parents[1])), source, ("latent",))
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b"NUMPY", b"NUMPX", 1))
    with pytest.raises(Unreadable, match="its cached latent is damaged"):
        sidecars(0)
    first.write_bytes(whole)
    assert sidecars(0)["latent"].shape[0] > 1
    with monkeypatch.context() as patched:  # a later version, to which 8-bit PNG looks otherwise
        patched.setattr(version, "PLAIN_VERSION", version.DECODER_VERSION + 1)
        with pytest.raises(ConfigError, match=rf"was made by decoder {version.DECODER_VERSION}: `lucidflux cache`"):
            training.run(pairs, tmp_path / "other", "steps=2", "data.cached=latent")
        cache(str(pairs), config, kinds, "cpu", training.Here(), Progress(True))
        now = {path: path.read_bytes() for path in (pairs / "cache").rglob("*.index.parquet")}
        assert all(now[path] != files[path] for path in now)
    for ours, theirs in zip(training.lines(tmp_path / "all"), training.lines(control), strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-2)
        assert ours["loss"] != theirs["loss"]
