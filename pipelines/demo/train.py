"""The end of `lucidflux demo`: the tiny model learns on the pairs, and `restore` uses what it has learned.

A plumbing check: the backbone is random, so the loss falls and nothing is restored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lucidflux_data.config import resolve
from lucidflux_data.pairs import samples
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_model.inference.loading import quiet_libraries
from lucidflux_model.training.config import make_train_config
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.progress.log import read_metrics
from lucidflux_model.training.progress.report import REPORT
from lucidflux_model.training.setup import train
from pipelines.execution.progress import Progress
from pipelines.restoration import job as restore
from pipelines.restoration.config import RestoreConfig
from pipelines.restoration.records import list_remaining
from pipelines.restoration.unit import RestoreUnit
from pipelines.training.launch import show_steps

STEPS = 200
SETTINGS = [
    f"steps={STEPS}",
    "batch_size=1",
    "learning_rate=3e-3",
    "warmup=10",
    "ema=0.98",
    "validation.samples=2",
    "validation.fraction=0.3",
]
SETTINGS += [f"validation.every={STEPS}", "checkpoint_every=100"]
AVERAGED = 20  # steps at either end


def run_train_demo(pairs: Folder, out: Path, progress: Progress) -> dict[str, Any]:
    """Trains below `out`, resumed where it was begun, and restores the first LQ of `pairs` by it."""
    quiet_libraries()
    config = make_train_config("debug", SETTINGS)
    run = out / "train"
    with show_steps(progress, STEPS) as show:
        alone = Runtime(0, 1, torch.device("cpu"))
        summary = train(config, [pairs.url], run, alone, resume=True, say=progress.say, on_step=show)
    losses = [line["loss"] for line in read_metrics(run) if line["loss"] is not None]
    first, last = (sum(part) / AVERAGED for part in (losses[:AVERAGED], losses[-AVERAGED:]))
    Folder(out).publish("lq/first.png", first_lq(pairs))
    restored = restore_one(out / "lq" / "first.png", Path(summary["trained"]), out / "restored")
    return {
        "trained": f"{STEPS} steps of tiny, loss {first:.2f} -> {last:.2f} (plumbing check: it restores nothing)",
        "training_report": str(run / REPORT),
        "restored": str(restored),
    }


def first_lq(pairs: Folder) -> bytes:
    """The bytes of lq.png of the first pair."""
    tar = shards.read_manifest(pairs)["shards"][0]["name"]
    rows = next(iter(samples.samples_of_index(pairs, tar).values()))
    return samples.read_sample(pairs, tar, rows)["lq.png"]


def restore_one(image: Path, trained: Path, out: Path) -> Path:
    settings = ["model.name=tiny", f"model.trained={trained}", "model.device=cpu", "steps=4", "upscale=4"]
    config = resolve(RestoreConfig, {}, None, settings)
    folder = Folder(out)
    rows = restore.start(folder, [str(image)], config)
    work = RestoreUnit(config)
    for _ in restore.run_here(folder, list_remaining(folder, rows, 1), work):
        pass
    restore.finish(folder, rows)
    return out / rows[0]["name"]
