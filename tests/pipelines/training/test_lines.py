"""The line that is shown for a step, as the trainer gives it and as metrics.jsonl has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lucidflux_model.training.progress.log import TrainLog, read_metrics
from lucidflux_model.training.progress.trackers import Trackers
from pipelines.training.launch import describe_step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_shown_before_and_after_it_was_written(value: float, tmp_path: Path) -> None:
    """JSON has null for such a number: the driver of a cluster, which follows the file, shows the same words."""
    counts = {"step": 1, "epoch": 0, "consumed": 4, "corrupt": 0, "skipped": 1, "skipped_in_a_row": 1}
    speed = {"seconds": 1.0, "images_per_s": 4.0, "data_wait": 0.0, "peak_memory_bytes": 1}
    line = {**counts, "loss": value, "loss_by_sigma": [value], "grad_norm": value, "lr": 1e-3, **speed}
    log = TrainLog(tmp_path, 0, False, Trackers(tmp_path, (), {}, print))
    log.write(line)
    log.close()
    (written,) = read_metrics(tmp_path)
    assert written["loss"] is None
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == written
    assert describe_step(line) == describe_step(written) == (
        "loss not finite, gradient not finite, rate 1.0e-03, 4.00 images/s, waiting 0%"
    )  # fmt: skip
