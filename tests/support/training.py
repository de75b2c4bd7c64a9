"""What the tests of the trainer share: pairs made in this process, runs of the tiny model, checkpoints to compare."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lucidflux_data.config import resolve
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.config import make_pairs_config, pairs_label
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_model.samples.sources import open_shards
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.config import TrainConfig
from lucidflux_model.training.distributed import Runtime, open_runtime
from lucidflux_model.training.setup import train
from pipelines.execution.progress import Progress
from pipelines.synthesis.job import synthesize
from tests.support.here import run_counted
from tests.support.paths import ROOT
from tests.support.photos import skimage_photos

SIZE = 96
PHOTOS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "rocket", "ihc")
SETTINGS = (
    *("model.name=tiny", "batch_size=4", "warmup=2", "learning_rate=1e-3", "ema=0.9", "checkpointing=off"),
    *("data.workers=0", "validation.fraction=0", "tensorboard=false", "checkpoint_every=3"),
)
TIMED = ("seconds", "images_per_s", "data_wait", "peak_memory_bytes", "validation")


class Here:
    """Runs the units of a job in this process."""

    description = "this process"
    num_gpus = 0

    def map(self, units: Any, job: Any, *rest: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
        for unit in units:
            yield unit, run_counted(job, unit)

    def close(self) -> None:
        """Nothing was opened."""


def make_photos(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for photo in skimage_photos():
        if photo.stem in PHOTOS:
            shutil.copyfile(photo, folder / photo.name)
    return folder


def make_pairs(photos: Path, out: Path, *settings: str) -> Path:
    """Two variants of six photos, four pairs a shard."""
    asked = [f"degrade.size={SIZE}", "variants=2", "shards.max_samples=4", *settings]
    config = make_pairs_config("realesrgan-x4", settings=asked)
    label = pairs_label("realesrgan-x4", config)
    about = pairs_run.make_run(config, label, "cv2", [absolute_url(str(photos))], None)
    pairs_run.start(Folder(out), about)
    synthesize(Folder(out), about, Here(), Progress(quiet=True))
    return out


def config_of(*settings: str) -> TrainConfig:
    return resolve(TrainConfig, {}, None, [*SETTINGS, *settings])


def run(pairs: Path, out: Path, *settings: str, runtime: Runtime | None = None, **options: Any) -> dict[str, Any]:
    """A run in this process, resumed where there is something to resume."""
    alone = runtime or Runtime(0, 1, torch.device("cpu"))
    options = {"resume": True, "say": lambda _: None, **options}
    return train(config_of(*settings), [str(pairs)], out, alone, **options)


def in_two(pairs: Path, *jobs: tuple[Any, ...], kill_in_step: int | None = None) -> list[int | None]:
    """Runs (out, setting, ...), one after another, in two gloo processes; their exit codes. They are forked from a
    server that has imported what they need: that saves them seconds, and forking this process, after Ray, hangs.

    `kill_in_step`: process 0 ends itself by SIGKILL when it has written the line of that step.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.training"])
        given = [(rank, port, pairs, jobs, kill_in_step) for rank in (0, 1)]
        processes = [context.Process(target=_one_of_two, args=arguments) for arguments in given]
        for process in processes:
            process.start()
    for process in processes:
        process.join(250)
        process.kill()
    return [process.exitcode for process in processes]


def _one_of_two(rank: int, port: int, pairs: Path, jobs: tuple[tuple[Any, ...], ...], kill_in_step: int | None) -> None:
    def kill(line: dict[str, Any]) -> None:
        if line["step"] == kill_in_step:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with open_runtime("cpu") as runtime:
        for out, *settings in jobs:
            run(pairs, out, *settings, runtime=runtime, on_step=kill)


def copy(run_: Path, out: Path) -> Path:
    """The folder of a run, to go on with."""
    shutil.copytree(run_, out)
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in found]


def state(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: weights, optimizer, moving average."""
    path = latest(out)
    assert path is not None
    about = json.loads((path / "checkpoint.json").read_text())["tensors"]
    tensors = {}
    files = {file.name: load_file(file) for file in path.glob("rank-*.safetensors")}  # once: not for each tensor
    for name, entry in about.items():
        tensors[name] = torch.full(entry["shape"], float("nan"), dtype=getattr(torch, entry["dtype"]))
        for piece in entry["pieces"]:
            place = tuple(slice(o, o + n) for o, n in zip(piece["offsets"], piece["sizes"], strict=True))
            tensors[name][place] = files[piece["file"]][name]
        assert not tensors[name].isnan().any()
    return tensors


def differing(first: Path, second: Path) -> list[str]:
    """Names of the tensors of two checkpoints that are not bit-equal."""
    a, b = state(first), state(second)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def damage(pairs: Path, out: Path, kind: str, *keys: int) -> Path:
    """A copy with a flipped byte in the named member of the n-th pairs."""
    shutil.copytree(pairs, out)
    source = open_shards([str(pairs)], Folder(out / "index"))
    for index in keys:
        tar = out / "shards" / Path(source.shards[source.shard_of[index]]).name
        data = bytearray(tar.read_bytes())
        data[int(source._columns[f"{kind}_offset"][index]) + 100] ^= 255
        tar.write_bytes(bytes(data))
    return out
