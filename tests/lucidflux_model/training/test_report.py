"""The page of a training run, from files written by hand: long curves, several suites, hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lucidflux_data.escapes import show
from lucidflux_model.training.config import BINS
from lucidflux_model.training.progress.report import POINTS, make_report
from lucidflux_model.training.run_file import CHANGES
from lucidflux_model.weights.tensors import MARK
from tests.lucidflux_data.test_escapes import is_seen
from tests.support import chromium
from tests.support.hostile import TEXTS
from tests.support.pages import check_page

STEPS = 5000


def losses() -> np.ndarray:
    return 2 * np.exp(-np.arange(1, STEPS + 1) / 900) + np.random.default_rng(0).normal(0, 0.05, STEPS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 40 has no finite loss; every 1000th is validated, on pairs held out and on two suites."""
    run = tmp_path_factory.mktemp("report") / "run"
    about = {
        "label": TEXTS[0],
        "config": {"steps": STEPS, "batch_size": 2, "model": {"name": TEXTS[3]}},
        MARK: [TEXTS[1]],
        CHANGES: [{"after_step": 1200, "what": TEXTS[2]}],
    }
    lines = []
    for step, loss in enumerate(losses(), 1):
        line: dict[str, Any] = {"step": step, "epoch": step // 700, "consumed": 2, "corrupt": 3, "skipped": 1}
        line |= {"skipped_in_a_row": 0, "grad_norm": 1 + loss, "lr": 1e-5, "seconds": 1.0, "images_per_s": 2.0}
        line |= {"loss": None if step == 40 else loss, "loss_by_sigma": [loss + k for k in range(BINS)]}
        line |= {"data_wait": 0.1, "peak_memory_bytes": 0}
        if step % 1000 == 0:
            figures = {"loss": loss, "loss_by_sigma": [loss] * BINS, "psnr": 20 + step / 1000}
            line["validation"] = {**figures, "suites": {TEXTS[4]: {"psnr": 21.5, "niqe": 4.5}, "b": {"niqe": 5.0}}}
        lines.append(json.dumps(line))
    for folder in ("step-00005000", "step-00005000/b"):
        (run / "validation" / folder).mkdir(parents=True)
        strip = np.random.default_rng(1).integers(0, 255, (32, 128, 3), np.uint8)
        name = TEXTS[5].replace("/", "\u2215")
        cv2.imwrite(str(run / "validation" / folder / f"{name}.png"), strip)
    (run / "run.json").write_text(json.dumps(about))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (run / "report.html").write_bytes(make_report(run))
    return run


def test_it_fits_can_be_read_and_hostile_names_do_nothing(run: Path, tab: chromium.Page) -> None:
    check_page(tab, run / "report.html")
    text = tab.value("document.documentElement.textContent")
    assert tab.value("document.documentElement.dataset.hostile ?? null") is None
    assert tab.value("document.querySelectorAll('[onerror], [onload], [onmouseover]').length") == 0
    assert is_seen(text, "\n\t")
    assert [t for t in TEXTS[:6] if show(t.replace("/", "\u2215")) not in text and show(t) not in text] == []
    titles = tab.value("[...document.querySelectorAll('.chart h3')].map(h => h.textContent.replace(/\\s+/g, ' '))")
    assert titles[:2] == ["Loss of a step", "Loss by sigma from clean to noise"]
    assert f"{show(TEXTS[4])} NIQE, lower is better" in titles
    assert make_report(run) == (run / "report.html").read_bytes()


def test_a_long_curve_is_drawn_by_means_of_neighbours(run: Path) -> None:
    page = (run / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    chart = data["charts"]["chart-0"]
    values = np.delete(losses(), 39)
    assert len(chart["x"]) == POINTS
    assert chart["series"][0]["values"][:3] == pytest.approx([values[k : k + 5].mean() for k in (0, 5, 10)], rel=1e-4)
    assert chart["x"][:2] == [5, 10]
    assert chart["x"][-1] == STEPS
    assert len(page) < 500_000, "the script of the charts is a tenth of it"
