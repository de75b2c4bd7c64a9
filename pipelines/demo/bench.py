"""The ranking of `lucidflux demo`: four classical methods on offline-photos, and with --full Real-ESRGAN."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.methods import submission
from benchmarks.metrics.profiles import load_profile
from benchmarks.report.results import Options
from benchmarks.suites import prepare
from benchmarks.suites import suite as suites
from benchmarks.suites.suite import Suite
from lucidflux_data.codecs.encoding import encode
from lucidflux_data.images import decode
from lucidflux_data.storage.folder import Folder
from pipelines.bench import evaluate, infer
from pipelines.bench.making import Place
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress


def run_bench_demo(out: Path, executor: Executor, progress: Progress, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Prepares the suite below `out`, makes the outputs of the classical methods and of `more` methods of bench infer,
    ranks them; gives the first of each metric."""
    target = out / "suites" / "offline-photos"
    if not prepare.is_current(suites.load_suite("offline-photos", target.parent)):
        prepare.prepare(suites.load_suite("offline-photos", None), None, target)
    suite = suites.load_suite("offline-photos", target.parent)
    outputs = out / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    for name in ("bicubic", "lanczos", *more):
        infer.infer_method(name, dict(suite.lq), outputs, suite.scale or 4, [], [], Place(), progress)
    make_denoised(suite, outputs)
    results = Folder(out / "results")
    profile, methods = load_profile("offline"), submission.find_methods([str(outputs)])
    board = evaluate.evaluate_outputs(
        results, Folder(out / "scores"), suite, methods, profile, executor, progress, Options()
    )
    first = {name: next(m for m, row in metric["rows"].items() if row["rank"] == 1)
             for name, metric in board["metrics"].items() if metric["ranked"]}  # fmt: skip
    best = ", ".join(f"{name} {method}" for name, method in first.items())
    return {"ranked_methods": len(methods), "first": best, "leaderboard": results.path("report.html")}


def make_denoised(suite: Suite, outputs: Path) -> None:
    """`nlmeans`: non-local means on the input, then Lanczos. `nlmeans-sharp`: that with unsharp masking."""
    for id_, path in suite.lq.items():
        clean = cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(decode(path.read_bytes())[..., ::-1]), None, 7, 7)
        size = (clean.shape[1] * (suite.scale or 4), clean.shape[0] * (suite.scale or 4))
        large = cv2.resize(clean, size, interpolation=cv2.INTER_LANCZOS4)
        sharp = cv2.addWeighted(large, 1.8, cv2.GaussianBlur(large, (0, 0), 2), -0.8, 0)
        for name, pixels in (("nlmeans", large), ("nlmeans-sharp", sharp)):
            Folder(outputs / name).publish(f"{id_}.png", encode(np.ascontiguousarray(pixels[..., ::-1])))
    for name in ("nlmeans", "nlmeans-sharp"):
        Folder(outputs / name).sweep()
