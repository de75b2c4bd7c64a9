"""`lucidflux train --launcher ray`: the same loop in the workers of a Ray Train job.

A worker that dies starts the group again from the last checkpoint; a node that is about to be taken away has a
checkpoint written first. What a worker has to say to the user lies in RUN/ray/: Ray would retry our errors too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypedDict

from lucidflux_data import errors
from lucidflux_data.errors import ConfigError, Interrupted, LucidFluxError
from lucidflux_data.messages import pack, unpack
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.distributed import PATIENCE, Runtime
from lucidflux_model.training.progress.log import Step, read_metrics, read_on
from lucidflux_model.training.run_file import warnings_of
from lucidflux_model.training.setup import Summary, check_run, train
from pipelines.execution.on_ray import RayExecutor, own_path
from pipelines.execution.progress import Progress, warn
from pipelines.training.launch import Request, show_steps

RESTARTS = 3
PLACE, ERROR, STOP, SUMMARY = "ray", "error.json", "stop", "summary.json"
POLL_SECONDS = 2.0


class LoopSettings(TypedDict):
    """What a worker is sent."""

    request: bytes  # a pickled Request
    quiet: bool
    keep: list[str]  # what the driver itself imports from
    folder: str  # the driver's working folder


def train_on_ray(
    request: Request, num_gpus: int | None, num_cpus: int | None, address: str | None, progress: Progress
) -> Summary:
    """Trains on `num_gpus` GPUs, all of the cluster by default; on `num_cpus` processes without GPUs where given."""
    check_run(request.config, Path(request.out), request.init, request.resume, request.data_changed)
    with hold(Folder(request.out), request.wait_s, new=True):
        return _train_on_ray(request, num_gpus, num_cpus, address, progress)


def _train_on_ray(
    request: Request, num_gpus: int | None, num_cpus: int | None, address: str | None, progress: Progress
) -> Summary:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    place = Path(request.out).absolute() / PLACE
    shutil.rmtree(place, ignore_errors=True)
    executor = RayExecutor(num_cpus, num_gpus, address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        progress.say(executor.description)
        workers = _workers(executor, num_gpus, num_cpus)
        job = TorchTrainer(
            _loop,
            train_loop_config={
                "request": pack(request),
                "quiet": progress.quiet,
                "keep": own_path(),
                "folder": os.getcwd(),
            },
            torch_config=TorchConfig(timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=num_cpus is None),
            run_config=RunConfig(
                name="job",
                storage_path=str(place),
                failure_config=FailureConfig(max_failures=RESTARTS),  # nodes that are taken away do not count
            ),
        )
        with show_steps(progress, request.config.steps) as show, _following(Path(request.out), show):
            return _fitted(job, place)
    finally:
        executor.close()
        for warning in warnings_of(Path(request.out)):
            warn(warning)


def _workers(executor: RayExecutor, num_gpus: int | None, num_cpus: int | None) -> int:
    """How many processes. ConfigError where the cluster has less than is asked for."""
    import ray

    kind, asked = ("CPU", num_cpus) if num_cpus is not None else ("GPU", num_gpus)
    found = int(ray.cluster_resources().get(kind, 0))
    if asked is not None and asked > found:
        raise ConfigError(f"{asked} {kind}s are asked for, and the cluster has {found}")
    if not found:
        raise ConfigError("the cluster has no GPU: --num-cpus N trains on N processes without")
    return asked or found


def _fitted(job: Any, place: Path) -> Summary:
    """The summary. A worker's own error is raised as what it was, a lost group as Interrupted."""
    from ray.train import TrainingFailedError

    with _asking_workers(place):
        try:
            _beside(job.fit).result()
        except TrainingFailedError as error:
            _raise_told(place)
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise Interrupted(f"the workers were lost {RESTARTS + 1} times ({reason}): --resume goes on") from None
    outcome = json.loads((place / SUMMARY).read_text())
    if "stopped" in outcome:
        raise Interrupted(outcome["stopped"])
    summary: Summary = outcome
    return summary


def _beside(call: Callable[[], Any]) -> Future[Any]:
    """`call` in a thread of its own: in the main one, Ray Train would take Ctrl-C for itself and save nothing."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


@contextlib.contextmanager
def _following(run: Path, show: Callable[[Step], None]) -> Iterator[None]:
    """Shows the lines that the workers write while the block runs."""
    done = threading.Event()

    def follow() -> None:
        last = max((line["step"] for line in read_metrics(run)), default=0)
        place = 0
        while not done.wait(POLL_SECONDS):
            lines, place = read_on(run, place)
            for line in lines:
                if line["step"] > last:
                    last = line["step"]
                    show(line)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _raise_told(place: Path) -> None:
    with contextlib.suppress(OSError):
        failure = json.loads((place / ERROR).read_text())
        raise getattr(errors, failure["kind"])(failure["message"])


@contextlib.contextmanager
def _asking_workers(place: Path) -> Iterator[None]:
    """SIGTERM and Ctrl-C become a file that the workers look for after every step."""

    def ask(number: int, _: Any) -> None:
        if (place / STOP).exists() and number == signal.SIGINT:
            raise KeyboardInterrupt
        place.mkdir(parents=True, exist_ok=True)
        (place / STOP).touch()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _loop(about: LoopSettings) -> None:
    """Sent by value: drops the driver's folder from the import path before it imports anything of ours."""
    import os
    import sys

    if about["folder"] not in about["keep"]:
        sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != about["folder"]]
    __import__("pipelines.training.on_ray", fromlist=["train_on_worker"]).train_on_worker(about)


_loop.__module__ = "__main__"  # cloudpickle sends functions of __main__ by value


def train_on_worker(about: LoopSettings) -> None:
    """One worker. Its group was started again where there is an error of ours: it would only come again."""
    import ray.train
    import torch.distributed as dist
    from ray.train.torch import get_device

    from lucidflux_model.inference.loading import quiet_libraries

    quiet_libraries()
    with contextlib.suppress(OSError):  # Ray Train has gone to a folder of its own; paths may be relative
        os.chdir(about["folder"])
    request: Request = unpack(about["request"])
    place = Path(request.out).absolute() / PLACE
    _raise_told(place)
    device = get_device()
    runtime = Runtime(dist.get_rank(), dist.get_world_size(), device)
    progress = Progress(quiet=not runtime.main or about["quiet"])
    out = Path(request.out)
    drained = getattr(ray.train, "get_preemption_info", lambda: None)  # older releases do not tell
    try:
        summary = train(
            request.config,
            request.sources,
            out,
            runtime,
            None if latest(out) else request.init,
            True,
            progress.say,
            lambda _: None,  # the driver follows metrics.jsonl
            (place / STOP).exists,
            lambda: drained() is not None,
            request.data_changed,
        )
        if runtime.main:
            _tell(place, SUMMARY, summary)
    except Interrupted as stopped:
        if runtime.main:
            _tell(place, SUMMARY, {"stopped": str(stopped)})
    except LucidFluxError as error:
        _tell(place, ERROR, {"kind": type(error).__name__, "message": str(error)})
        raise


def _tell(place: Path, name: str, content: Mapping[str, object]) -> None:
    Folder(place).publish(name, json.dumps(content).encode())
