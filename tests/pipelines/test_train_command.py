"""Training as processes: signals and kills, torchrun, Ray Train, and the command's own words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "lucidflux_model"))

import training
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError
from lucidflux_model.checkpoints import latest
from lucidflux_model.train_config import make_train_config
from pipelines.train import Request
from pipelines.train_ray import train_on_ray

COMMAND = str(Path(sys.executable).with_name("lucidflux"))
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    return training.make_pairs(training.make_photos(root / "photos"), root / "pairs")


@pytest.fixture(scope="module")
def control(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("control") / "run"
    training.run(pairs, out, "steps=7")
    return out


def command(pairs: Path, out: Path, *more: str) -> list[str]:
    settings = [part for setting in training.SETTINGS for part in ("--set", setting)]
    return [COMMAND, "train", "--data", str(pairs), "--out", str(out), *settings, *more]


def wait_for_step(out: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has the line of a step."""
    while process.poll() is None:
        with_lines = (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n")
        if with_lines and with_lines >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended too early: {process.stderr.read() if process.stderr else ''}")


def test_kill_9_then_sigterm_then_to_the_end(pairs: Path, control: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    out = tmp_path / "run"
    with subprocess.Popen(command(pairs, out, "--set", "steps=1000"), **options) as process:
        wait_for_step(out, 4, process)
        process.kill()
    assert latest(out).name == "step-00000003"
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # what a kill in the middle of a line leaves
    with subprocess.Popen(command(pairs, out, "--set", "steps=1000", "--resume"), **options) as process:
        wait_for_step(out, 5, process)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 5, told
    assert "--resume goes on" in told.splitlines()[-1]
    stopped = json.loads((latest(out) / "progress.json").read_text())["step"]
    assert f"stopped after step {stopped}" in told
    assert [line["step"] for line in training.lines(out)] == list(range(1, stopped + 1))
    longer = tmp_path / "longer"
    shutil.copytree(control, longer)
    last = max(7, stopped + 1)
    for run in (out, longer):
        training.run(pairs, run, f"steps={last}")
    assert training.differing(out, longer) == []
    assert training.lines(out) == training.lines(longer)


@pytest.fixture(scope="module")
def two(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train_worker.py leaves, killed and called again."""
    out = tmp_path_factory.mktemp("two")
    worker = Path(__file__).with_name("train_worker.py")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    first = subprocess.run([*line, worker, pairs, out], capture_output=True, text=True, timeout=280, check=False)
    assert "SIGKILL" in first.stderr, first.stderr[-3000:]
    assert latest(out / "killed").name == "step-00000003"
    second = subprocess.run([*line, worker, pairs, out], capture_output=True, text=True, timeout=280, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    return out


def test_two_processes_resume_exactly_after_kill_9(two: Path) -> None:
    assert training.differing(two / "whole", two / "killed") == []
    assert training.lines(two / "whole") == training.lines(two / "killed")
    assert [line["step"] for line in training.lines(two / "killed")] == list(range(1, 8))


def close(first: Path, second: Path, rel: float) -> bool:
    found = [training.lines(path) for path in (first, second)]
    values = [[(line["loss"], line["grad_norm"]) for line in lines] for lines in found]
    bins = [[[loss or 0 for loss in line["loss_by_sigma"]] for line in lines] for lines in found]
    assert torch.tensor(values[0]).shape == torch.tensor(values[1]).shape
    return torch.allclose(torch.tensor(values[0]), torch.tensor(values[1]), rtol=rel) and torch.allclose(
        torch.tensor(bins[0]), torch.tensor(bins[1]), rtol=rel
    )


def test_one_process_sees_the_batches_noise_and_sigma_of_two(
    two: Path, control: Path, pairs: Path, tmp_path: Path
) -> None:
    assert close(two / "whole", control, 1e-4)
    shutil.copytree(two / "whole", tmp_path / "run")
    training.run(pairs, tmp_path / "run", "steps=9")
    training.run(pairs, control, "steps=9")
    assert close(tmp_path / "run", control, 1e-4)


def test_fsdp_equals_ddp(two: Path) -> None:
    """Weights in pieces, the frozen ones too, and accumulated: the same losses, validation and export."""
    assert close(two / "fsdp", two / "ddp", 1e-4)
    measured = [
        json.loads((two / kind / "metrics.jsonl").read_text().splitlines()[-1])["validation"]
        for kind in ("fsdp", "ddp")
    ]
    assert measured[0]["ema_loss_by_sigma"] == pytest.approx(measured[1]["ema_loss_by_sigma"], rel=1e-4)
    assert measured[0]["psnr"] == pytest.approx(measured[1]["psnr"], abs=0.05)
    weights = [training.state(two / kind) for kind in ("fsdp", "ddp")]
    assert weights[0].keys() == weights[1].keys()
    name = "model.conditioner.modulation_lq.linear.weight"
    assert torch.allclose(weights[0][name], weights[1][name], atol=1e-5)
    assert weights[0][name].abs().max() > 1e-4, "it has learned something"


def kill_a_worker(out: Path, tag: str, killed: list[int]) -> None:
    """Once step 4 is written: one of the two Ray processes that train."""
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") >= 4):
        time.sleep(0.05)
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("LUCIDFLUX_TEST") == tag
            if ours and "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return
        except psutil.Error:
            continue


def test_ray_train_goes_on_after_a_worker_was_killed(
    pairs: Path, control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCIDFLUX_TEST", str(tmp_path))
    out = tmp_path / "run"
    config = training.config_of("steps=40")
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(out, str(tmp_path), killed), daemon=True)
    killer.start()
    from pipelines.progress import Progress

    summary = train_on_ray(Request(config, (str(pairs),), str(out), None, False, "auto"), None, 2, None, Progress(True))
    assert len(killed) == 1
    assert summary["steps"] == 40
    assert [line["step"] for line in training.lines(out)] == list(range(1, 41))
    loss = [line["loss"] for line in training.lines(out)]
    expected = [line["loss"] for line in training.lines(control)]
    assert loss[:7] == pytest.approx(expected[:7], rel=1e-4)
    assert (out / "trained.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--num-gpus", "64"], "64 GPUs are asked for, and this machine has"),
        (["--set", "optimzer=adamw"], "there is no setting optimzer"),
        (["--config", "nothing.toml"], "cannot be read"),
        (["--launcher", "slurm"], "--launcher is local or ray"),
        (["--num-gpus", "1"], "1 GPUs are asked for, and this machine has 0"),
        (["--num-cpus", "2", "--num-gpus", "2"], "exclude each other"),
    ],
)
def test_wrong_calls_are_one_sentence(pairs: Path, tmp_path: Path, more: list[str], words: str) -> None:
    call = ["train", "--data", str(pairs), "--out", str(tmp_path / "run"), "--model", "tiny", *more]
    result = CliRunner().invoke(cli.app, call)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_the_command_ends_with_the_sentence_and_its_code(tmp_path: Path) -> None:
    call = [COMMAND, "train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run"), "--model", "tiny"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'nothing'} is not there"
    assert "Traceback" not in done.stderr


def test_our_configs_say_what_they_say() -> None:
    ours, published, debug = (make_train_config(name, []) for name in ("lucidflux", "published-script", "debug.toml"))
    assert (ours.batch_size, ours.learning_rate, ours.timestep_sampling) == (32, 2e-5, "flux-shift")
    assert (published.optimizer, published.guidance, published.weight_decay, published.ema) == (
        "adafactor",
        (1, 1),
        0,
        0,
    )
    assert published.timestep_sampling == "published-script"
    assert debug.model.name == "tiny"
    assert make_train_config("debug", ["steps=7"]).steps == 7
