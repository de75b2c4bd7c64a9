"""Checkpoints that a kill cannot spoil: written aside, renamed when complete, and only then named in `latest`.

RUN/checkpoints/step-00000500/    see checkpoint_files; older ones are torch's distributed checkpoints
                .../progress.json step, position in the data, counts
RUN/checkpoints/latest            the name of the newest
"""

from __future__ import annotations

import errno
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
from torch import Tensor, nn

from lucidflux_data.errors import FolderBusy, InputError, Interrupted, VerificationError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.names import check_file_name
from lucidflux_data.storage.regular import open_regular
from lucidflux_model.network.build import TRAINED, build, sizes_of
from lucidflux_model.training import checkpoint_files as files
from lucidflux_model.training import old_checkpoints
from lucidflux_model.training.distributed import Runtime
from lucidflux_model.weights.layouts import NAMED

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
        trouble: Exception | None = None
        try:
            part.mkdir(parents=True, exist_ok=True)
            files.write_part(part, state, self.runtime.rank, self.runtime.world)
        except Exception as error:
            trouble = error
        self._stop_where(trouble, name, part)
        if self.runtime.main:
            try:
                self._publish(part, name, state, progress)
            except Exception as error:
                trouble = error
        self._stop_where(trouble, name, part)
        return self.folder / name

    def _stop_where(self, trouble: Exception | None, name: str, part: Path) -> None:
        """All processes stop where one could not write; none waits for another for ever."""
        failed = self.runtime.sum(torch.tensor([float(trouble is not None)], device=self.runtime.device))
        if not failed.item():
            return
        if isinstance(trouble, FolderBusy):
            raise trouble
        if self.runtime.main:
            shutil.rmtree(part, ignore_errors=True)
        raise Interrupted(self._why(name, trouble or RuntimeError("another process could not write its part")))

    def _publish(self, part: Path, name: str, state: dict[str, Any], progress: dict[str, Any]) -> None:
        Folder(self.folder.parent).check_held()
        before = latest(self.folder.parent)
        files.write_about(part, state, self.runtime.world, {PROGRESS: json.dumps(progress, sort_keys=True) + "\n"})
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of an earlier attempt that was not named in `latest`
        os.replace(part, self.folder / name)
        files.write_text(self.folder / ".latest.part", name)
        os.replace(self.folder / ".latest.part", self.folder / LATEST)
        there = {path.name for path in self.folder.glob("step-*")}
        for old in outlived(there, before.name if before else "", name, self.keep):
            shutil.rmtree(self.folder / old, ignore_errors=True)

    def _why(self, name: str, error: BaseException) -> str:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, OSError) and error.strerror:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = f"the disk is full: {error.strerror}" if full else error.strerror
        last = latest(self.folder.parent)
        kept = f"the last one, {last.name}, is untouched" if last else "there is none before it"
        return f"the checkpoint {name} could not be written to {self.folder} ({reason}): {kept}; --resume goes on"

    def load(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Fills the tensors of `state` and returns the progress. InputError for a checkpoint of another model. Whether
        the files are those that were saved is asked before, of `check_sums`."""
        try:
            if files.is_of_safetensors(path):
                files.fill(path, state)
            else:
                with _quiet():
                    old_checkpoints.fill(path, state, self.runtime.world == 1)
            return parse_json((path / PROGRESS).read_text())
        except (KeyboardInterrupt, SystemExit, InputError):
            raise
        except BaseException as error:  # CheckpointException is no Exception
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{path} is damaged, or a checkpoint of another model: {reason}") from None


def outlived(there: set[str], before: str, saved: str, keep: int) -> list[str]:
    """Checkpoints to remove when `saved` follows `before`: of those that the run has come by all but the last `keep`,
    and those between the two, which it had left behind when it was taken back. Later ones, of the same kind, count for
    nothing and stay until the run has passed them."""
    passed = {name for name in there if before < name < saved}
    live = sorted(name for name in there - passed if name <= saved)
    return sorted(passed) + live[:-keep]


MOST_NAME = 256  # bytes of the name in LATEST


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run. InputError where there is no such one, VerificationError for a name that
    leads out of the run."""
    try:
        with open_regular(run / PLACE / LATEST) as file:
            name = file.read(MOST_NAME).decode("utf-8", "replace").strip()
    except OSError:
        return None
    check_file_name(name, run / PLACE)
    path = run / PLACE / name
    if not (path / PROGRESS).is_file():
        raise InputError(f"{run / PLACE / LATEST} names {path.name}, which is not there: put another name into it")
    return path


NOT_CHECKED = "has no checksums, an older version saved it: its files were not checked"


def verify_run(run: Path) -> dict[str, Any]:
    """Every checkpoint of a run against its checksums, by number, and whether the weights in it are finite numbers.
    VerificationError (exit 6) names a file, or a tensor."""
    found = sorted(path for path in (run / PLACE).glob("step-*") if path.is_dir())
    if not found:
        raise InputError(f"{run} has no checkpoint yet")
    checked = [path.name for path in found if files.check_sums(path)]
    for path in found:
        broken = files.find_broken(path)
        if broken:
            raise VerificationError(f"{path} holds NaN or infinity in {', '.join(broken[:NAMED])}")
    lacking = [path.name for path in found if path.name not in checked]
    unrecorded = {"not_recorded_before_this_version": lacking} if lacking else {}
    return {"run": str(run), "checkpoints": len(found), "verified": len(checked), **unrecorded}


def read_trained(checkpoint: Path, model: str, averaged: bool = True) -> dict[str, nn.Module]:
    """conditioner and connector of a checkpoint, on the CPU in float32; `averaged`: the moving average where there is
    one. InputError where the checkpoint is not of this model."""
    parts = build(sizes_of(model), "meta", parts=TRAINED)
    wanted = {f"model.{part}.{name}": tensor for part in TRAINED for name, tensor in parts[part].state_dict().items()}
    ours = files.is_of_safetensors(checkpoint)
    try:
        tensors = files.list_tensors(checkpoint) if ours else old_checkpoints.list_tensors(checkpoint)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{checkpoint} is no checkpoint, or a damaged one: {error}") from None
    for key, like in wanted.items():
        if key not in tensors or tensors[key][0] != like.shape:
            raise InputError(f"{checkpoint} is not of the model {model}: {key.removeprefix('model.')} differs")
    state: dict[str, Tensor] = {
        key: torch.empty(size, dtype=dtype)
        for key, (size, dtype) in tensors.items()
        if key in wanted or (averaged and key.startswith("ema."))
    }
    if ours:
        files.fill(checkpoint, state)
    else:
        with _quiet():
            old_checkpoints.fill(checkpoint, state, True)
    for key in [key for key in state if key.startswith("ema.")]:
        state[f"model.{key.removeprefix('ema.')}"] = state.pop(key)
    for part in TRAINED:
        prefix = f"model.{part}."
        own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        parts[part].load_state_dict(own, strict=True, assign=True)
    return parts


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
