"""The line that is shown for a step, as the trainer gives it and as metrics.jsonl has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lucidflux_model.training.progress.log import TrainLog, read_metrics
from lucidflux_model.training.progress.trackers import Trackers
from pipelines.execution.progress import Progress
from pipelines.training import launch
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


def test_a_line_says_how_long_is_left_at_the_speed_so_far(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """From the first step on, of a run that goes on at step 11 too: by what was measured, not by a promise."""
    now = 100.0
    monkeypatch.setattr(launch.time, "monotonic", lambda: now)
    show = launch.make_line_writer(Progress(), 50)
    speed = {"images_per_s": 1.0, "data_wait": 0.0, "peak_memory_bytes": 1}
    for step, seconds in ((11, 4.0), (12, 2.0), (50, 2.0)):
        now += seconds if step < 50 else 76.0
        show({"step": step, "loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "seconds": seconds, "validation": {}, **speed})
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.endswith("about 2 min 36 s left"), "39 steps of 4 s"
    assert second.endswith("about 1 min 54 s left"), "38 steps of 3 s"
    assert first.startswith("step 11/50:")
    assert "left" not in last
