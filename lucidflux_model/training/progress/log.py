"""metrics.jsonl: one JSON line a step; no step appears twice, even after a resume. TensorBoard and trackers
get the same figures.

A line is written before the checkpoint of its step. A run that goes on drops the lines after its checkpoint, and half
a line that a kill left: they are written again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict

from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.formats import parse_json
from lucidflux_model.training.progress.trackers import Trackers

METRICS = "metrics.jsonl"


class Figures(TypedDict, total=False):
    """One validation: losses of pairs held out, measures of restored images. `ema_`: of the moving average."""

    loss: float
    loss_by_sigma: list[float]  # one a bin of sigma, from clean to noise
    ema_loss: float
    ema_loss_by_sigma: list[float]
    psnr: float  # means over images
    ssim: float
    niqe: float


class Validated(Figures, total=False):
    """The validation of a step: the figures of pairs held out, and of benchmark suites."""

    suites: dict[str, Figures]  # by name


class Speed(TypedDict):
    """How fast a step was, in this process."""

    seconds: float
    images_per_s: float
    data_wait: float  # share of the time
    peak_memory_bytes: int
    mfu: NotRequired[float]  # useful FLOP/s over the device's; of known GPUs


class Step(Speed):
    """A line of metrics.jsonl. Counts are from the start of the run."""

    step: int  # from 1
    epoch: int
    consumed: int  # samples of the epoch
    corrupt: int  # pairs that were replaced
    skipped: int  # steps without an update
    skipped_in_a_row: int
    loss: float | None  # null where it was not finite
    loss_by_sigma: list[float | None]  # one a bin; null for a bin without samples
    grad_norm: float | None  # before clipping
    lr: float
    validation: NotRequired[Validated]


def read_metrics(run: Path) -> list[Step]:
    """Whole lines only."""
    return read_on(run, 0)[0]


def read_on(run: Path, place: int) -> tuple[list[Step], int]:
    """The whole lines after byte `place`, and where they end; from the start where no line ends at `place` any more:
    a run that goes on has written the file anew."""
    try:
        with open(run / METRICS, "rb") as file:
            file.seek(max(0, place - 1))
            start = place if place and file.read(1) == b"\n" else 0
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    whole = data[: data.rfind(b"\n") + 1]
    return [parse_json(line) for line in whole.splitlines()], start + len(whole)


class TrainLog:
    """For process 0."""

    def __init__(self, run: Path, step: int, tensorboard: bool, trackers: Trackers) -> None:
        """`step`: the last that counts; later lines are dropped. `trackers`: take the same figures."""
        part = run / f".{METRICS}.part"
        with open(part, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, run / METRICS)
        self._file: IO[str] = open(run / METRICS, "a")  # noqa: SIM115 - closed by close()
        self._trackers = trackers
        self._board = self._open_board(run, step) if tensorboard else None

    def _open_board(self, run: Path, step: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tensorboard is not installed: pip install 'lucidflux[model]', or --set tensorboard=false"
            ) from None
        return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, line: Step) -> None:
        """Numbers that are not finite become null: JSON has no word for them."""
        clean = _finite(line)
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        figures = dict(_flat(clean))
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, line["step"])
        self._trackers.log(figures, line["step"])

    def close(self) -> None:
        self._file.close()
        self._trackers.close()
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(line: Mapping[str, object], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            found += _flat({str(index): inner for index, inner in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found.append((f"{prefix}{name}", value))
    return found
