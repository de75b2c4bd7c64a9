"""Checkpoints that a kill cannot spoil: written aside, renamed when complete, and only then named in `latest`.

RUN/checkpoints/step-00000500/    torch's distributed checkpoint: any number of processes can read it
                .../progress.json step, position in the data, counts
RUN/checkpoints/latest            the name of the newest
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from lucidflux_data.errors import FolderBusy, InputError, Interrupted
from lucidflux_data.storage.folder import Folder
from lucidflux_model.network.build import TRAINED, build, sizes_of
from lucidflux_model.training.distributed import Runtime

LATEST, PROGRESS, PLACE = "latest", "progress.json", "checkpoints"


class Checkpoints:
    def __init__(self, run: Path, keep: int, runtime: Runtime) -> None:
        self.folder, self.keep, self.runtime = run / PLACE, keep, runtime

    def save(self, state: dict[str, Any], progress: dict[str, Any]) -> Path:
        """On every process. Raises Interrupted where it cannot be written; what was there before stays."""
        name = f"step-{progress['step']:08d}"
        part = self.folder / f".{name}.part"
        if self.runtime.main:
            shutil.rmtree(part, ignore_errors=True)
        self.runtime.barrier()
        try:
            part.mkdir(parents=True, exist_ok=True)
            with _quiet():
                dcp.save(state, checkpoint_id=part, no_dist=self.runtime.world == 1)
            if self.runtime.main:
                self._publish(part, name, progress)
        except (KeyboardInterrupt, SystemExit, FolderBusy):
            raise
        except BaseException as error:  # CheckpointException is no Exception
            shutil.rmtree(part, ignore_errors=True)
            raise Interrupted(self._why(name, error)) from None
        self.runtime.barrier()
        return self.folder / name

    def _publish(self, part: Path, name: str, progress: dict[str, Any]) -> None:
        Folder(self.folder.parent).check_held()
        _write(part / PROGRESS, json.dumps(progress, sort_keys=True) + "\n")
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of an earlier attempt that was not named in `latest`
        os.replace(part, self.folder / name)
        _write(self.folder / ".latest.part", name)
        os.replace(self.folder / ".latest.part", self.folder / LATEST)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _why(self, name: str, error: BaseException) -> str:
        causes = [error, *getattr(error, "failures", {}).values()]
        causes = [cause[0] if isinstance(cause, tuple) else cause for cause in causes]
        reasons = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
        reason = reasons[0] if reasons else (str(error).splitlines() or [type(error).__name__])[0]
        last = latest(self.folder.parent)
        kept = f"the last one, {last.name}, is untouched" if last else "there is none before it"
        return f"the checkpoint {name} could not be written to {self.folder} ({reason}): {kept}; --resume goes on"

    def load(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Fills the tensors of `state` and returns the progress. InputError for a checkpoint of another model."""
        try:
            with _quiet():
                dcp.load(state, checkpoint_id=path, no_dist=self.runtime.world == 1)
            return json.loads((path / PROGRESS).read_text())
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path} is damaged, or a checkpoint of another model: {reason}") from None


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    try:
        path = run / PLACE / (run / PLACE / LATEST).read_text().strip()
    except OSError:
        return None
    if not (path / PROGRESS).is_file():
        raise InputError(f"{run / PLACE / LATEST} names {path.name}, which is not there: put another name into it")
    return path


def read_trained(checkpoint: Path, model: str, averaged: bool = True) -> dict[str, nn.Module]:
    """conditioner and connector of a checkpoint, on the CPU in float32; `averaged`: the moving average where there is
    one. InputError where the checkpoint is not of this model."""
    parts = build(sizes_of(model), "meta", parts=TRAINED)
    wanted = {f"model.{part}.{name}": tensor for part in TRAINED for name, tensor in parts[part].state_dict().items()}
    try:
        entries = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    except (OSError, ValueError, RuntimeError):
        raise InputError(f"{checkpoint} is no checkpoint, or a damaged one") from None
    tensors = {key: entry for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
    for key, like in wanted.items():
        if key not in tensors or tensors[key].size != like.shape:
            raise InputError(f"{checkpoint} is not of the model {model}: {key.removeprefix('model.')} differs")
    state: dict[str, Tensor] = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in tensors.items()
        if key in wanted or (averaged and key.startswith("ema."))
    }
    with _quiet():
        dcp.load(state, checkpoint_id=checkpoint, no_dist=True)
    for key in [key for key in state if key.startswith("ema.")]:
        state[f"model.{key.removeprefix('ema.')}"] = state.pop(key)
    for part in TRAINED:
        prefix = f"model.{part}."
        own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        parts[part].load_state_dict(own, strict=True, assign=True)
    return parts


def _write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to those who call it from one process."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
