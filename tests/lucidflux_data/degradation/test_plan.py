"""Plans: purity, streams, distributions against the published numbers, and the test that the card applies."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
import scipy.stats

from lucidflux_data.degradation import plan as degrade_plan
from lucidflux_data.degradation.config import PRESETS, make_degrade_config
from lucidflux_data.degradation.noise import _draw
from lucidflux_data.degradation.plan import Streams, draw_plan
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.pairs.card import Distributions
from lucidflux_data.pairs.config import make_pairs_config, pairs_label
from lucidflux_data.storage.formats import canonical_json

KEYS = [f"{n:020x}" for n in range(100)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_is_its_own_json_and_a_pure_function(preset: str) -> None:
    config = make_degrade_config(preset)
    again = type(config).model_validate(json.loads(json.dumps(config.model_dump(), sort_keys=True)))
    for key in KEYS:
        plan = draw_plan(key, 3, config)
        assert json.loads(json.dumps(plan)) == plan
        assert draw_plan(key, 3, again) == plan, "a config that was stored with its names sorted draws the same"
    different = {json.dumps(draw_plan(key, variant, config)["steps"]) for key in KEYS for variant in range(4)}
    assert len(different) == 400
    assert draw_plan(KEYS[0], 0, make_degrade_config(preset, ["seed=1"])) != draw_plan(KEYS[0], 0, config)


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_plans_are_distributed_as_the_published_options(count: int) -> None:
    config = make_degrade_config("realesrgan-x4")
    seen = Distributions(config)
    scales, second = [], []
    for number in range(count):
        plan = draw_plan(f"{number:020x}", 0, config)
        seen.add(plan)
        resizes = [step for step in plan["steps"] if step["op"] == "resize"]
        scales.append(resizes[0]["scale"])
        second.append(resizes[1]["scale"])
    rows = {row["name"]: row for row in seen.test()}
    assert [name for name, row in rows.items() if row["flagged"]] == []
    assert all(row["p"] is not None for name, row in rows.items() if name != "first.blur")
    # The stage mix that follows from train_realesrgan_x4plus.yml: sinc with 0.1, else the list of kernel_prob.
    mix = {"sinc": 0.1, "iso": 0.405, "aniso": 0.225, "generalized_iso": 0.108, "plateau_iso": 0.108}
    mix |= {"generalized_aniso": 0.027, "plateau_aniso": 0.027}
    for name, probability in mix.items():
        share = rows["first.kernel.type"]["counts"][name] / count
        assert abs(share - probability) < 4.5 * math.sqrt(probability * (1 - probability) / count), name
    # E[s^2] of U(1, 1.5) with 0.2, U(0.15, 1) with 0.7, 1 with 0.1; and of the second stage's options
    assert np.mean(np.square(scales)) == pytest.approx(0.2 * 2.375 / 1.5 + 0.7 * (1 - 0.15**3) / 2.55 + 0.1, rel=0.01)
    assert np.mean(np.square(second)) == pytest.approx(0.3 * 0.728 / 0.6 + 0.4 * (1 - 0.3**3) / 2.1 + 0.3, rel=0.01)


def test_the_card_flags_a_set_that_was_drawn_from_other_numbers() -> None:
    stated = make_degrade_config("realesrgan-x4")
    for setting, name in {
        "first.gaussian_sigma=1,25": "first.noise.sigma",
        "second.blur_prob=0.7": "second.blur",
        "first.kernel_sizes=7,9,11": "first.kernel.size",
        "final.jpeg_first_prob=0.6": "final.jpeg_first",
    }.items():
        drawn, seen = make_degrade_config("realesrgan-x4", [setting]), Distributions(stated)
        for number in range(4000):
            seen.add(draw_plan(f"{number:020x}", 0, drawn))
        assert name in [row["name"] for row in seen.test() if row["flagged"]]


def test_p_values_are_those_of_scipy() -> None:
    config = make_degrade_config("light")
    seen = Distributions(config)
    for number in range(2000):
        seen.add(draw_plan(f"{number:020x}", 1, config))
    for row in seen.test():
        if row["p"] is not None:
            names = list(row["expected"])
            counts = [row["counts"].get(name, 0) for name in names]
            expected = np.array([row["expected"][name] for name in names])
            assert row["p"] == pytest.approx(scipy.stats.chisquare(counts, expected * row["n"]).pvalue, abs=1e-9)


def test_a_new_operation_or_parameter_moves_no_other_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_degrade_config("realesrgan-x4")
    before = [draw_plan(key, 0, config) for key in KEYS]
    plain_noise, plain_uniforms = degrade_plan._noise, Streams.uniforms

    def with_a_dummy(streams: Streams, name: str, stage: object) -> dict:
        streams.uniforms(f"{name}.dummy", 7)
        return plain_noise(streams, name, stage)  # type: ignore[arg-type]

    monkeypatch.setattr(degrade_plan, "_noise", with_a_dummy)
    monkeypatch.setattr(Streams, "uniforms", lambda self, op, n: plain_uniforms(self, op, n + 2)[:n])
    assert [draw_plan(key, 0, config) for key in KEYS] == before
    monkeypatch.undo()
    without = make_degrade_config("realesrgan-x4", ["first.blur_prob=0"])
    for key, plan in zip(KEYS, before, strict=True):
        assert draw_plan(key, 0, without)["steps"] == plan["steps"][1:]


def test_noise_words_are_philox4x32_10() -> None:
    """The known answer of the Random123 distribution for a counter and a key of zero."""
    words = np.empty(4, np.uint32)
    _draw(np.uint64(0), np.uint64(0), 0, words)
    assert [f"{word:08x}" for word in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["degrade.first.kernel_probs.iso=0.9"], "probabilities that sum to 1, not to 1.45"),
        (["degrade.second.resize_probs.sideways=0.1"], "'sideways': known are up, down, keep"),
        (["degrade.first.sigma=3,0.2"], "sigma runs backwards"),
        (["degrade.first.blur_prob=1.5"], "less than or equal to 1"),
        (["degrade.size=1000", "degrade.scale=3"], "not a multiple of scale"),
        (["hq=gif"], "png, jxl, webp, jpeg:Q"),
        (["degrade.colour=1"], "no setting degrade.colour"),
    ],
)
def test_wrong_settings_are_named(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_pairs_config("realesrgan-x4", settings=settings)


def test_labels_and_versions() -> None:
    config = make_pairs_config("lucidflux", settings=["degrade.size=512", "degrade.first.gray_prob=0"])
    label = pairs_label("lucidflux", config)
    assert "modified: first.gray_prob=0.0" in label
    assert "inferred" in label
    with pytest.raises(InputError, match="newer"):
        degrade_plan.check_plan({"plan_version": degrade_plan.PLAN_VERSION + 1})


# Plans are arithmetic on Philox words: the same on every machine. Another value here needs another PLAN_VERSION.
VERSION_1 = {
    "realesrgan-x4": "08c449e5ee0b26ac",
    "lucidflux": "5f354e624336356f",
    "light": "6b2d0d3cc1fd9a24",
    "codeformer": "2b1834f6e58a0816",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_plans_of_version_1_stay_what_they_are(preset: str) -> None:
    config = make_degrade_config(preset)
    plans = b"".join(canonical_json(draw_plan(f"{n:020x}", n % 4, config)) for n in range(50))
    assert hashlib.sha256(plans).hexdigest()[:16] == VERSION_1[preset]
    assert degrade_plan.PLAN_VERSION == 1
