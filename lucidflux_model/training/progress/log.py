"""metrics.jsonl: one JSON line a step; no step appears twice, even after a resume. TensorBoard gets the same figures.

A line is written before the checkpoint of its step. A run that goes on drops the lines after its checkpoint, and half
a line that a kill left: they are written again.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import IO, Any

from lucidflux_data.errors import ConfigError

METRICS = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Whole lines only."""
    return read_on(run, 0)[0]


def read_on(run: Path, place: int) -> tuple[list[dict[str, Any]], int]:
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
    return [json.loads(line) for line in whole.splitlines()], start + len(whole)


class TrainLog:
    """For process 0."""

    def __init__(self, run: Path, step: int, tensorboard: bool) -> None:
        """`step`: the last that counts; later lines are dropped."""
        part = run / f".{METRICS}.part"
        with open(part, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in read_metrics(run) if line["step"] <= step)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, run / METRICS)
        self._file: IO[str] = open(run / METRICS, "a")  # noqa: SIM115 - closed by close()
        self._board = self._open_board(run, step) if tensorboard else None

    def _open_board(self, run: Path, step: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tensorboard is not installed: pip install 'lucidflux[model]', or --set tensorboard=false"
            ) from None
        return SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Numbers that are not finite become null: JSON has no word for them."""
        clean = _finite(line)
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in _flat(clean):
                self._board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            found += _flat({str(index): inner for index, inner in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found.append((f"{prefix}{name}", value))
    return found
