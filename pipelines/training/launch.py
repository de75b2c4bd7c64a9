"""Starting `lucidflux train`: in this process, under torchrun, or as the workers of a Ray Train job."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidflux_data.errors import ConfigError, Interrupted, LucidFluxError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from lucidflux_model.training.config import TrainConfig
from lucidflux_model.training.distributed import launch, launch_line, open_runtime
from lucidflux_model.training.progress.log import Step
from lucidflux_model.training.progress.stopping import StopAsked, Stopping
from pipelines.execution.human import human_seconds
from pipelines.execution.progress import SECONDS_BETWEEN_LINES, Progress, warn

if TYPE_CHECKING:
    from lucidflux_model.training.setup import Summary

# An error that all processes have is said by the first, whose end ends the others before they say it too; after a
# signal they end quietly by themselves.
SECONDS_FOR_THE_FIRST = 10.0


@dataclass(frozen=True)
class Request:
    """What a process needs to know to take part."""

    config: TrainConfig
    sources: tuple[str, ...]
    out: str
    init: str | None
    resume: bool
    device: str
    wait_s: float = 0.0  # as of lease.hold
    data_changed: bool = False  # whether a run may go on with other data than before


def train_here(request: Request, progress: Progress) -> Summary | None:
    """In this process, alone or as one of torchrun's. The summary, from process 0."""
    try:
        with catching_signals() as stopping, _held(request):
            return _train_here(request, progress, stopping)
    except StopAsked:
        if int(os.environ.get("RANK", 0)) > 0:
            sys.exit(Interrupted.exit_code)
        raise Interrupted("stopped before a step was made: repeat the command") from None
    except LucidFluxError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            if isinstance(error, Interrupted) and stopping.is_asked():
                sys.exit(error.exit_code)
            time.sleep(SECONDS_FOR_THE_FIRST)
        raise


def _held(request: Request) -> contextlib.AbstractContextManager[None]:
    """Of the processes of a run the first holds its folder."""
    from lucidflux_model.training.setup import check_run

    check_run(request.config, Path(request.out), request.init, request.resume, request.data_changed)
    if int(os.environ.get("RANK", 0)) > 0:
        return contextlib.nullcontext()
    return hold(Folder(request.out), request.wait_s, new=True)


def _train_here(request: Request, progress: Progress, stopping: Stopping) -> Summary | None:
    from lucidflux_model.inference.loading import quiet_libraries
    from lucidflux_model.training.setup import train

    quiet_libraries()
    with open_runtime(request.device) as runtime:
        quiet = Progress(quiet=not runtime.main or progress.quiet)
        with show_steps(quiet, request.config.steps) as on_step:
            result = train(
                request.config,
                request.sources,
                Path(request.out),
                runtime,
                request.init,
                request.resume,
                quiet.say,
                on_step,
                stopping.is_asked,
                data_changed=request.data_changed,
                warn=warn,
                stopping=stopping,
            )
        return result if runtime.main else None


def launch_processes(request: Request, processes: int, on_gpus: bool, progress: Progress) -> Summary | None:
    """This command again, as `processes` processes, one a GPU or all without; what is to be said is said by the first
    of them. One process is this one. ConfigError where there are fewer GPUs."""
    import torch

    found = torch.cuda.device_count()
    if on_gpus and processes > found:
        raise ConfigError(f"{processes} GPUs are asked for, and this machine has {found}")
    if processes == 1:
        return train_here(request, progress)
    progress.say(" ".join(launch_line(sys.argv[1:], processes)))
    # Not by the path of the program, which need not be ours; -P: nor from the folder that it was called in.
    launch([sys.executable, "-P", "-c", "import cli; cli.lucidflux_main()", *sys.argv[1:]], processes)
    return None


@contextlib.contextmanager
def catching_signals() -> Iterator[Stopping]:
    """SIGTERM and Ctrl-C ask for a stop; a second Ctrl-C does not wait."""
    stopping = Stopping()

    def ask(number: int, _: Any) -> None:
        if stopping.is_asked() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopping.ask()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def show_steps(progress: Progress, steps: int) -> Iterator[Callable[[Step], None]]:
    """A line on the terminal that moves, a plain one every ten seconds elsewhere."""
    if progress.quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(steps) as show:
            yield show
    else:
        yield make_line_writer(progress, steps)


def describe_step(line: Step) -> str:
    parts = [f"loss {_number(line['loss'], 4)}", f"gradient {_number(line['grad_norm'], 2)}", f"rate {line['lr']:.1e}"]
    parts += [f"{line['images_per_s']:.2f} images/s", f"waiting {line['data_wait']:.0%}"]
    if "mfu" in line:
        parts.append(f"MFU {line['mfu']:.0%}")
    return ", ".join(parts)


def _number(value: float | None, digits: int) -> str:
    """A line of metrics.jsonl has null where a step's own line has a number that is not finite."""
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def make_line_writer(progress: Progress, steps: int) -> Callable[[Step], None]:
    """A line of text for the first step, every ten seconds, and where something was validated; each with the time
    that is left at the mean speed of the steps so far, of which the first one's is its own."""
    begun: float | None = None
    last, before = -math.inf, 0

    def show(line: Step) -> None:
        nonlocal last, begun, before
        now = time.monotonic()
        if begun is None:
            begun, before = now - line["seconds"], line["step"] - 1
        if now - last >= SECONDS_BETWEEN_LINES or line["step"] == steps or "validation" in line:
            last = now
            each = (now - begun) / (line["step"] - before)
            left = f", about {human_seconds(each * (steps - line['step']))} left" if line["step"] < steps else ""
            progress.say(f"step {line['step']:,}/{steps:,}: {describe_step(line)}{left}")

    return show


@contextlib.contextmanager
def _bar(steps: int) -> Iterator[Callable[[Step], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=steps, state="")
        yield lambda line: bar.update(task, completed=line["step"], state=describe_step(line))
