"""Training as processes: signals and kills, one process and two, and the command's own words."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import cli
from lucidflux_data.errors import ConfigError, Interrupted
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.config import make_train_config
from lucidflux_model.training.distributed import launch
from tests.support import stock, training
from tests.support.commands import next_commands
from tests.support.hostile_folder import lay
from tests.support.odd_sources import header_offset

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


def has_step(out: Path, step: int) -> bool:
    path = out / "metrics.jsonl"
    return path.exists() and path.read_text().count("\n") >= step


def wait_for_step(out: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has the line of a step."""
    while process.poll() is None:
        if has_step(out, step):
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended too early: {process.stderr.read() if process.stderr else ''}")


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """What the installed command does, in this process: its exit code and what it says."""
    monkeypatch.setattr(sys, "argv", ["lucidflux", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.lucidflux_main()
    return int(ended.value.code or 0), capsys.readouterr().err


OPTIONS = {
    "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    "stderr": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "text": True,
}


def test_kill_9_then_sigterm_then_to_the_end(
    pairs: Path, control: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(command(pairs, out, "--set", "steps=1000"), **OPTIONS) as process:
        wait_for_step(out, 4, process)
        process.kill()
    assert latest(out).name == "step-00000003"
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # what a kill in the middle of a line leaves

    def signal_after_step_5() -> None:
        while not (has_step(out, 5) and '"step": 9, "lo' not in (out / "metrics.jsonl").read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_after_step_5, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    code, told = called([*command(pairs, out, "--set", "steps=1000", "--resume")[1:]], monkeypatch, capsys)
    assert signal.getsignal(signal.SIGTERM) is before
    assert code == 5, told
    assert "--resume goes on" in told.splitlines()[-1]
    stopped = json.loads((latest(out) / "progress.json").read_text())["step"]
    assert f"stopped after step {stopped}" in told
    assert [line["step"] for line in training.lines(out)] == list(range(1, stopped + 1))
    longer = training.copy(control, tmp_path / "longer")
    last = max(7, stopped + 1)
    for run in (out, longer):
        training.run(pairs, run, f"steps={last}")
    assert training.differing(out, longer) == []
    assert training.lines(out) == training.lines(longer)


@pytest.fixture(scope="module")
def two(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes: `killed` in step 5 and resumed, `whole` to compare it with, `fsdp` with everything in
    pieces and `ddp`."""
    out = tmp_path_factory.mktemp("two")
    codes = training.in_two(pairs, (out / "killed", "steps=7"), kill_in_step=5)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] not in (0, None), "the other ends too"
    assert latest(out / "killed").name == "step-00000003"
    sharded = ("parallel=fsdp", "shard_frozen=true", "micro_batch=1")
    validated = ("validation.images=1", "validation.steps=1", "validation.samples=1", "validation.every=3")
    validated += ("validation.fraction=0.4", "steps=3")
    jobs = [(out / "killed", "steps=7"), (out / "whole", "steps=7")]
    jobs += [(out / "fsdp", *sharded, *validated), (out / "ddp", *validated)]
    assert training.in_two(pairs, *jobs) == [0, 0]
    return out


@pytest.mark.slow
def test_two_processes_resume_exactly_after_kill_9(two: Path) -> None:
    assert training.differing(two / "whole", two / "killed") == []
    assert training.lines(two / "whole") == training.lines(two / "killed")
    assert [line["step"] for line in training.lines(two / "killed")] == list(range(1, 8))


@pytest.mark.slow
def test_the_command_starts_two_processes_and_a_signal_reaches_both(two: Path, pairs: Path, tmp_path: Path) -> None:
    """--num-cpus, which --num-gpus differs from by the device alone."""
    out = tmp_path / "run"
    with subprocess.Popen(command(pairs, out, "--num-cpus", "2", "--set", "steps=1000"), **OPTIONS) as process:
        wait_for_step(out, 2, process)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 5, told
    stopped = json.loads((latest(out) / "progress.json").read_text())["step"]
    lines = told.splitlines()
    assert lines[0].startswith("torchrun --standalone --nproc-per-node 2 --no-python lucidflux train --data")
    assert any("2 process(es)" in line for line in lines)
    assert lines[-1].startswith(f"error: stopped after step {stopped}, checkpoint step-{stopped:08d}")
    assert told.count("error:") == 1, "said once, by the first"
    assert "Traceback" not in told
    last = max(7, stopped + 1)
    whole = training.copy(two / "whole", tmp_path / "whole")
    assert training.in_two(pairs, (out, f"steps={last}"), (whole, f"steps={last}")) == [0, 0]
    assert training.differing(out, whole) == []
    assert training.lines(out) == training.lines(whole)


CHILD = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
assert os.environ["WORLD_SIZE"] == "2"
open(f"{sys.argv[1]}/started-{rank}", "w").close()
if sys.argv[2] == "fail" and rank == 1:
    sys.exit(3)
if sys.argv[2] == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] != "end":
    time.sleep(60)
"""


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("fail", 3), ("kill", 5)])
def test_the_end_of_one_process_ends_all(tmp_path: Path, how: str, code: int) -> None:
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in handled}
    ended: BaseException | None = None
    try:
        launch([sys.executable, "-c", CHILD, str(tmp_path), how], 2)
    except (SystemExit, Interrupted) as error:
        ended = error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert getattr(ended, "exit_code", getattr(ended, "code", 0)) == code
    if how == "kill":
        assert "process 1 was killed: --resume goes on" in str(ended)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["started-0", "started-1"]


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
    training.copy(two / "whole", tmp_path / "run")
    training.run(pairs, tmp_path / "run", "steps=9")
    longer = training.copy(control, tmp_path / "longer")
    training.run(pairs, longer, "steps=9")
    assert close(tmp_path / "run", longer, 1e-4)


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


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--num-gpus", "64"], "64 GPUs are asked for, and this machine has"),
        (["--set", "optimzer=adamw"], "there is no setting optimzer"),
        (["--config", "nothing.toml"], "--config nothing.toml is neither a file nor one of ours"),
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


def test_training_and_encoding_end_with_commands(pairs: Path, tmp_path: Path) -> None:
    """In a folder whose name has to be quoted."""
    place, run = tmp_path / "my pairs", tmp_path / "my run"
    shutil.copytree(pairs, place)

    def said(*words: object) -> str:
        done = CliRunner().invoke(cli.app, list(map(str, words)))
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    settings = [part for setting in (*training.SETTINGS, "steps=1") for part in ("--set", setting)]
    told = said("train", "--data", place, "--out", run, *settings)
    assert next_commands(told, "lucidflux train")[1] == f"lucidflux weights verify '{run}'"
    (export,) = next_commands(said("weights", "verify", run), "lucidflux weights verify")
    assert export == f"lucidflux weights export '{run}' --out lucidflux.safetensors"
    options = ("--model", "tiny", "--kinds", "latent", "--executor", "local", "--num-cpus", "1")
    (train,) = next_commands(said("cache", place, *options), "lucidflux cache")
    assert train == f"lucidflux train --data '{place}' --out RUN --model tiny --set data.cached=latent"


def test_the_command_ends_with_the_sentence_and_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run"), "--model", "tiny"]
    code, told = called(arguments, monkeypatch, capsys)
    assert code == 3
    assert told.splitlines()[-1] == f"error: {tmp_path / 'nothing'} is not there"
    assert "Traceback" not in told


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


def test_what_the_listing_of_plain_tars_warns_of_is_said_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    place, out = tmp_path / "tars", tmp_path / "run"
    place.mkdir()
    whole = stock.make_tar(place / "a.tar", 4).read_bytes()
    stock.make_tar(place / "cut.tar", 4, first=10, prefix="cut")
    with open(place / "cut.tar", "r+b") as file:
        file.truncate(header_offset((place / "cut.tar").read_bytes(), 5) + 100)  # before an LQ
    (place / "no.tar").write_bytes(b"no tar")
    os.mkfifo(place / "pipe.tar")
    (place / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (place / "notes.txt").write_bytes(b"")
    told = [
        f"{place}/packed.tar.gz is a packed tar and is not read: unpack it to a .tar",
        f"file://{place}/cut.tar is damaged or breaks off; what can be read of it is used",
        f"{place}/no.tar is not a tar",
        f"{place}/pipe.tar is no regular file: a pipe, a socket or a device is not opened",
    ]
    ignored = {"damaged_files": 2, "damaged_tails": 1, "other_files": 1, "packed_tars": 1}
    asked = command(place, out, "--set", "steps=1", "--json")[1:]
    for arguments in ([*asked, "--dry-run"], asked, [*asked, "--resume", "--set", "steps=2"]):
        monkeypatch.setattr(sys, "argv", ["lucidflux", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.lucidflux_main()
        said = capsys.readouterr()
        assert (ended.value.code or 0, said.err) == (0, "".join(f"warning: {line}\n" for line in told))
        assert json.loads(said.out)["warnings"] == told
    listed = json.loads((out / "run.json").read_text())["listed"]
    assert listed == {"warnings": told, "ignored_by": ignored, "left_out": {"incomplete": 1}}
    code, err = called(command(place / "cut.tar", tmp_path / "one", "--set", "steps=1")[1:], monkeypatch, capsys)
    assert (code, "1 images are left out: 1 incomplete" in err) == (0, True), err
    (place / "a.tar").write_bytes(whole[: header_offset(whole, 1)] + whole[header_offset(whole, 2) :])
    for source in (place, place / "no.tar", place / "pipe.tar"):
        code, err = called(command(source, tmp_path / "none", "--set", "steps=1")[1:], monkeypatch, capsys)
        assert (code, len(err.splitlines())) == (3, 1), "a whole tar that lacks a member, and what was named itself"


def test_what_the_listing_of_clean_images_warns_of_is_said_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photos, out = training.make_photos(tmp_path / "photos"), tmp_path / "run"
    (photos / "torn.parquet").write_bytes(b"PAR1")
    (photos / "cut.png").write_bytes((photos / "coffee.png").read_bytes()[:20])
    online = ["--set", "data.online=realesrgan-x4", "--set", "data.online_settings=size=96", "--set", "steps=1"]
    code, err = called([*command(photos, out)[1:], *online], monkeypatch, capsys)
    told = f"{photos}/torn.parquet is damaged, or no Parquet file; 0 rows of it are used"
    assert (code, f"warning: {told}\n" in err, "1 images are left out: 1 truncated" in err) == (0, True, True), err
    listed = json.loads((out / "run.json").read_text())["listed"]
    assert listed == {"warnings": [told], "ignored_by": {"damaged_files": 1}, "left_out": {"truncated": 1}}


def test_a_signal_does_not_wait_for_data_that_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In the middle of a batch, and before the first step; what was reached is kept."""
    photos, out = training.make_photos(tmp_path / "photos"), tmp_path / "run"
    answers, ended = [10**6], threading.Event()

    class Stalling(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            if self.path.endswith((".png", ".jpg")):
                answers[0] -= 1
                if answers[0] == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                if answers[0] <= 0:
                    ended.wait(100)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Stalling, directory=str(photos))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        online = ["--set", "data.online=realesrgan-x4", "--set", "data.online_settings=size=96"]
        asked = ["train", "--data", url, *command(photos, out)[4:], *online, "--resume"]
        code, err = called([*asked, "--set", "steps=1"], monkeypatch, capsys)
        assert code == 0, err
        before = training.lines(out)
        for answer, told in (
            (3, "stopped before a step was made: repeat the command"),
            (9, "stopped after step 1, checkpoint step-00000001: --resume goes on"),
        ):
            answers[0] = answer  # the first six are the headers
            code, err = called([*asked, "--set", "steps=9"], monkeypatch, capsys)
            assert (code, err.splitlines()[-1]) == (5, f"error: {told}")
            assert training.lines(out) == before
        ended.set()
        server.shutdown()


def test_a_folder_of_everything_that_strangers_lay_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Pipes, devices, sparse files, bombs, lying tars, loops: what can be used is, in bounded memory."""
    place, out = lay(tmp_path / "hostile", large=False), tmp_path / "run"
    online = ["--set", "data.online=realesrgan-x4", "--set", "data.online_settings=size=96", "--set", "steps=3"]
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (6 << 30), hard))
    try:
        code, err = called([*command(place, out)[1:], *online], monkeypatch, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert code == 0, err
    listed = json.loads((out / "run.json").read_text())["listed"]
    assert listed["ignored_by"] == {
        "damaged_files": 6,  # gone and loop as .tar and .parquet, a sparse csv, deep lines
        "damaged_tails": 2,  # empty.tar, lying.tar
        "duplicate_rows": 8,
        "not_regular": 14,
        "other_files": 2,
        "packed_tars": 1,
    }
    assert listed["left_out"] == {
        "duplicate": 1,
        "missing": 5,
        "not_allowed": 4,
        "not_an_image": 5,
        "too_many_bytes": 3,
        "too_small": 10,
        "truncated": 1,
        "unreadable": 4,
    }
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [
        f"warning: {told}" for told in listed["warnings"]
    ]
    assert "8 pairs of 96x96 to train on" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile", "run"]
    code, err = called(command(place, tmp_path / "pairs")[1:], monkeypatch, capsys)
    assert (code, len(err.splitlines())) == (3, 1)
    assert "is not in a tar" in err
