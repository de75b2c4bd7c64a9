"""`lucidflux train --dry-run`: what would be trained on, and whether the run would start at all. Nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

import torch

from lucidflux_data.storage.folder import Folder, configure
from lucidflux_data.storage.run_folder import RUN_FILE, read_claim
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.training.run_file import Claim, Data, compare
from lucidflux_model.training.setup import (
    base_digest,
    check_run,
    label,
    make_share,
    open_source,
    open_suites,
    split_pairs,
    tell_listed,
)
from pipelines.execution.progress import Progress, warn
from pipelines.training.launch import Request


class Plan(TypedDict):
    """`pairs`: to train on; `size`: of the HQ, width x height; `batches`: of an epoch; `goes_on_from`: the checkpoint,
    where there is one."""

    model: str
    pairs: int
    held_out: int
    size: str
    batches: int
    goes_on_from: NotRequired[str]


def plan(request: Request, processes: int, progress: Progress) -> Plan:
    """Reads the index of the pairs and the first of some of them. Errors as of the run itself, as far as they can be
    known without the model: ConfigError, InputError, StorageError."""
    config, out = request.config, Path(request.out)
    check_run(config, out, request.init, request.resume, request.data_changed)
    configure(config.storage.model_dump())
    make_share(config, Runtime(0, processes, torch.device("cpu")))
    source = open_source(config, request.sources, Folder(out), keep=False)
    tell_listed(source, progress.say, warn)
    checkpoint = latest(out)
    training, held = split_pairs(config, source, new=checkpoint is None or request.data_changed)
    open_suites(config)
    planned: Plan = {
        "model": label(config),
        "pairs": len(training),
        "held_out": len(held),
        "size": f"{source.size[1]}x{source.size[0]}",
        "batches": -(-len(training) // config.batch_size),
    }
    if checkpoint is not None:
        now = Data.of(source, held, config.validation.fraction)
        asked = Claim(config, request.sources, now, base_digest(config), label(config), None, (), request.data_changed)
        compare(out, read_claim(Folder(out), RUN_FILE), asked, progress.say)
        planned["goes_on_from"] = checkpoint.name
    return planned
