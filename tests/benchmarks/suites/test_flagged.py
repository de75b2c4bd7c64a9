"""References that the filter's rules reject: named by the rule, and ranks with and without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks import evaluation
from benchmarks.methods import submission
from benchmarks.metrics import score as scoring
from benchmarks.metrics.profiles import profile_of_metrics
from benchmarks.ranking import Ranking
from benchmarks.report.results import Evaluated, Options
from benchmarks.suites.flagged import flag_references
from lucidflux_data.codecs.encoding import encode
from lucidflux_data.images import decode, luma
from lucidflux_data.measures.blur_and_flat import measure_luma_by_definition
from lucidflux_data.sources.bundled import bundled_photos


def test_a_reference_is_flagged_by_the_rule_that_it_breaks() -> None:
    photo = next(decode(path.read_bytes()) for path in bundled_photos() if path.stem == "coffee")
    rng = np.random.default_rng(0)
    images = {
        "photo": photo,
        "blurred": cv2.GaussianBlur(photo, (0, 0), 5),
        "noise": rng.integers(0, 256, photo.shape, dtype=np.uint8),
    }
    flat = np.full((512, 512, 3), 128, np.uint8)
    flat[:200, :200] = photo[:200, :200]
    flat[:200:2, :200:2] //= 2
    images["flat"] = flat
    measured = {name: measure_luma_by_definition(luma(pixels)) for name, pixels in images.items()}
    expected = {}
    for name, (variance, share) in measured.items():
        rule = (
            "too_blurry" if variance < 150 else "too_sharp" if variance > 8000 else "too_flat" if share > 0.5 else None
        )
        expected |= {name: rule} if rule else {}
    assert flag_references({name: encode(pixels) for name, pixels in images.items()}) == expected
    assert expected == {"blurred": "too_blurry", "noise": "too_sharp", "flat": "too_flat"}


def test_ranks_with_and_without_the_flagged(tmp_path: Path) -> None:
    """a is better on three images of four, and by so much worse on the flagged one that it is second over all."""
    rng = np.random.default_rng(1)
    for number in range(4):
        gt = rng.integers(60, 200, (32, 32, 3), dtype=np.uint8)
        errors = {"a": 2 if number < 3 else 50, "b": 3}
        for place, error in (("gt", 0), *((f"out/{name}", error) for name, error in errors.items())):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(gt + np.uint8(error)).save(tmp_path / place / f"{number}.png")
    methods = submission.find_methods([str(tmp_path / "out")])
    suite = evaluation.choose_suite(None, tmp_path, methods, evaluation.Places(gt=tmp_path / "gt"))
    suite = replace(suite, flagged={"3": "too_blurry", "none of it": "too_flat"})

    def score(spec):  # type: ignore[no-untyped-def]
        load = scoring.load_scorer(spec, "cpu")
        return {item.key: scoring.score_item(item, load) for item in scoring.make_items(spec, methods, suite)}

    scored: Evaluated = evaluation.evaluate(suite, methods, profile_of_metrics(["psnr"]), Options(resamples=200), score)
    shown = Ranking(scored)
    rows = shown.board["metrics"]["psnr"]["rows"]
    assert (rows["b"]["rank"], rows["a"]["rank"]) == (1, 2)
    without = shown.board["without_flagged"]
    assert without == {"flagged": {"3": "too_blurry"}, "n": 3, "ranks": {"psnr": {"a": 1, "b": 2}}}
    sentence = "1 reference would not pass the filter's rules (1 too_blurry); ranks without them: "
    assert f"{sentence}psnr: a 2 to 1; psnr: b 1 to 2." in repr(shown).replace("\\", "")
    assert Ranking(replace(scored, suite=replace(suite, flagged={}))).board["without_flagged"] is None
