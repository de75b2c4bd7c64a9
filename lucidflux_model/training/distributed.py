"""Where a training process stands among the others: alone, under torchrun, or in a Ray Train worker.

Everything that processes tell one another goes through here; the loop does not know who started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lucidflux_data.errors import ConfigError, Interrupted

PATIENCE = timedelta(hours=1)  # of collectives: others wait while one saves or restores images


@dataclass(frozen=True)
class Runtime:
    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def mesh(self) -> Any:
        return dist.device_mesh.init_device_mesh(self.device.type, (self.world,))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on each."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            self.sum(torch.zeros(1, device=self.device))

    def first(self) -> contextlib.AbstractContextManager[None]:
        """`with runtime.first():` process 0 runs the block before the others do."""
        return _first(self)


@contextlib.contextmanager
def _first(runtime: Runtime) -> Iterator[None]:
    """A failure of process 0 is its own to tell; the others stop with it."""
    if not runtime.main:
        runtime.barrier()
    yield
    if runtime.main:
        runtime.barrier()


def pick_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def is_launched() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextlib.contextmanager
def open_runtime(device: str = "auto") -> Iterator[Runtime]:
    """Joins the other processes of torchrun; alone where there are none."""
    if not is_launched():
        yield Runtime(0, 1, pick_device(device))
        return
    place = pick_device(device)
    if place.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(f"{local + 1} processes or more on a node with {torch.cuda.device_count()} GPUs")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Runtime(dist.get_rank(), dist.get_world_size(), place)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "by peer" in str(error):  # gloo: closed, or reset, by peer
            raise Interrupted("another process was lost: --resume goes on from the last checkpoint") from None
        raise
    finally:
        dist.destroy_process_group()


def launch_line(arguments: list[str], processes: int) -> list[str]:
    """The command that does by hand what `launch` does."""
    return ["torchrun", "--standalone", "--nproc-per-node", str(processes), "--no-python", "lucidflux", *arguments]


def launch(command: list[str], processes: int) -> None:
    """Runs `command` as `processes` processes of this machine, by torchrun's agent; returns when all have ended well.

    Ends with the exit code of the process that failed first, which has said why. A signal is passed on to all, and they
    have time to save. Raises Interrupted where a process was killed.
    """
    import logging
    import tempfile
    import uuid

    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed says so itself
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(int(PATIENCE.total_seconds())))
    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            config = LaunchConfig(1, 1, processes, DefaultLogsSpecs(log_dir=scratch), max_restarts=0, **place)
            elastic_launch(config, command[0])(*command[1:])
    except SignalException:
        sys.exit(Interrupted.exit_code)
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        told = [code for code in codes.values() if code > 0]
        if told:  # of those who stopped because another was lost, none is the cause
            sys.exit(next((code for code in told if code != Interrupted.exit_code), Interrupted.exit_code))
        killed = next((rank for rank, code in codes.items() if code != -signal.SIGTERM), 0)  # the agent ends the rest
        raise Interrupted(f"process {killed} was killed: --resume goes on from the last checkpoint") from None
