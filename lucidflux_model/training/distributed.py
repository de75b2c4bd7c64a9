"""Where a training process stands among the others: alone, under torchrun, or in a Ray Train worker.

Everything that processes tell one another goes through here; the loop does not know who started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from lucidflux_data.errors import ConfigError, Interrupted, LucidFluxError
from lucidflux_model.network.device import pick_device
from lucidflux_model.samples.stream import make_error
from lucidflux_model.training.model import VelocityModel

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

    def agree_on(self, trouble: LucidFluxError | None) -> LucidFluxError:
        """The first trouble that a process has, on each; some process must have one."""
        failures: list[tuple[int, str] | None] = [None] * self.world
        mine = (trouble.exit_code, str(trouble)) if trouble is not None else None
        if self.world > 1:
            dist.all_gather_object(failures, mine)
        else:
            failures = [mine]
        return next(make_error(*item) for item in failures if item is not None)

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
        exit_codes = [code for code in codes.values() if code > 0]
        if exit_codes:  # of those who stopped because another was lost, none is the cause
            sys.exit(next((code for code in exit_codes if code != Interrupted.exit_code), Interrupted.exit_code))
        killed = next((rank for rank, code in codes.items() if code != -signal.SIGTERM), 0)  # the agent ends the rest
        raise Interrupted(f"process {killed} was killed: --resume goes on from the last checkpoint") from None


class Parallel:
    """`call` is the model's forward with gradients averaged over processes in the last piece of a step."""

    def __init__(self, model: VelocityModel, runtime: Runtime, kind: str, shard_frozen: bool) -> None:
        self.model, self.runtime, self.kind = model, runtime, kind
        self.call: Callable[..., Tensor] = model
        if kind == "fsdp" and runtime.world > 1:
            self._shard(shard_frozen)
        elif runtime.world > 1:
            self.call = self._copied()

    def _copied(self) -> DistributedDataParallel:
        frozen = [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad]
        frozen += [name for name, _ in self.model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)
        devices = [self.runtime.device] if self.runtime.device.type == "cuda" else None
        # Without the search for unused parameters DDP rebuilds its buckets after the first step, and sums in another
        # order then: a resumed run would not be bit-equal to one that was not interrupted.
        return DistributedDataParallel(
            self.model, device_ids=devices, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    def _shard(self, shard_frozen: bool) -> None:
        mesh = self.runtime.mesh
        # It warns of results that are views, in case they are changed in place; control and tokens never are.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        conditioner = self.model.conditioner
        for branch in (conditioner.branch_lq, conditioner.branch_proxy):
            for block in branch.transformer_blocks:
                fully_shard(block, mesh=mesh)
        # Roots keep their gathered weights after a forward by default: validation with the moving average would then
        # leave it to the next step of training.
        fully_shard(conditioner, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(conditioner, "prepare")  # what inference calls
        fully_shard(self.model.connector, mesh=mesh, reshard_after_forward=True)
        if shard_frozen:
            transformer = self.model.transformer
            for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
                fully_shard(block, mesh=mesh)
            fully_shard(transformer, mesh=mesh, reshard_after_forward=True)

    def accumulating(self, last: bool) -> Any:
        """Around one piece of a step: gradients stay local until the last."""
        if self.kind == "fsdp" and self.runtime.world > 1:
            for module in (self.model.conditioner, self.model.connector):
                module.set_requires_gradient_sync(last)
        elif isinstance(self.call, DistributedDataParallel) and not last:
            return self.call.no_sync()
        return contextlib.nullcontext()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}


def clip_gradient(parameters: list[nn.Parameter], limit: float) -> float:
    """Scales gradients down to the norm `limit`; gives the norm before, over all processes. Not finite: left alone."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if torch.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)
