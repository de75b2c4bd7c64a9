"""Methods that lack images: never ranked, shown with what they lack; ids that a user names; what cannot be tested."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.columns import Rules, read_columns
from benchmarks.leaderboard.partial import find_common
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.report import notes
from tests.benchmarks.leaderboard.boards import IDS, board, complete, cut, table

IMAGES = 6


@st.composite
def boards_before_and_after(draw: st.DrawFn) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], set[str]]:
    """Scores of methods, some with gaps; the same without some images; the methods that lost an image."""
    names = [f"m{k}" for k in range(draw(st.integers(2, 5)))]
    value = st.integers(0, 5)  # ties happen
    before, after, touched = {}, {}, set()
    for name in names:
        scores = np.array(draw(st.lists(value, min_size=IMAGES, max_size=IMAGES)), float)
        gaps = draw(st.sets(st.integers(0, IMAGES - 1), max_size=2))
        lost = draw(st.sets(st.integers(0, IMAGES - 1), max_size=IMAGES))
        scores[list(gaps)] = np.nan
        before[name] = scores
        after[name] = scores.copy()
        after[name][list(lost)] = np.nan
        if lost - gaps:
            touched.add(name)
    return before, after, touched


def ranked_and_bold(scores: dict[str, np.ndarray], **options: Any) -> tuple[dict[str, int], set[str]]:
    rows = board({"musiq": scores}, IDS[:IMAGES], IMAGES, resamples=200, **options)["metrics"]["musiq"]["rows"]
    ranks = {method: row["rank"] for method, row in rows.items() if row["rank"]}
    return ranks, {method for method, row in rows.items() if row.get("tied_with_best")}


@settings(max_examples=60, deadline=None)
@given(boards_before_and_after(), st.booleans())
def test_removing_images_changes_no_order_and_wins_nothing(
    case: tuple[dict[str, np.ndarray], dict[str, np.ndarray], set[str]], allow_partial: bool
) -> None:
    before, after, touched = case
    ranks, bold = ranked_and_bold(before, allow_partial=allow_partial)
    then, then_bold = ranked_and_bold(after, allow_partial=allow_partial)
    whole = {name for name, scores in after.items() if np.isfinite(scores).all()}
    alike = len({tuple(np.isfinite(scores)) for scores in after.values()}) == 1
    if alike and not whole:  # all have the very same images: ranked over these where the user allows it, else nobody
        assert bool(then) == (allow_partial and np.isfinite(next(iter(after.values()))).any())
        return
    assert then.keys() == whole  # so none that lost an image
    assert not touched & (then.keys() | then_bold)
    if not allow_partial or any(np.isfinite(scores).all() for scores in before.values()):
        assert then.keys() <= ranks.keys()
        assert then_bold <= then.keys()
        for first, second in combinations(then, 2):
            assert np.sign(ranks[first] - ranks[second]) == np.sign(then[first] - then[second])
    assert bold <= ranks.keys()


def test_the_largest_group_of_equal_images_wins_nothing(base: np.ndarray) -> None:
    """s1 with 11 of 12 images, s2 better with 10, three copies of a bad one with 3: nobody is first."""
    scores = {"s1": cut(base[:12] + 30, 11), "s2": cut(base[:12] + 40, 10)}
    scores |= {f"bad{k}": cut(base[:12], 3) for k in range(3)}
    for allow_partial in (False, True):
        made = complete(board({"psnr": scores}, IDS[:12], 12, allow_partial=allow_partial))
        assert [row["rank"] for row in made["metrics"]["psnr"]["rows"].values()] == [None] * 5
    assert made["common"] == {"methods": list(scores), "ids": IDS[:3]}
    shared = {tuple(pair["methods"]): pair for pair in made["metrics"]["psnr"]["shared"]}
    assert len(shared) == 10
    assert shared["s1", "s2"]["n"] == 10
    assert shared["s1", "s2"]["difference"] == pytest.approx(-10)
    assert shared["s1", "bad0"]["n"] == 3


def by_brute_force(held: dict[str, set[int]]) -> int:
    """The most scores (methods times ids) that more than half of the methods share."""
    best = 0
    for count in range(2, len(held) + 1):
        for group in combinations(held, count):
            shared = set.intersection(*(held[method] for method in group))
            if 2 * count > len(held):
                best = max(best, count * len(shared))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_what_most_have_in_common_is_shared_by_all_that_it_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, share = int(rng.integers(2, 7)), rng.choice([0.1, 0.4])
    scores = {f"m{k}": np.where(rng.random(8) < share, np.nan, 1.0) for k in range(count)}
    for values in scores.values():
        values[rng.integers(8)] = np.nan  # nobody is complete
    columns = read_columns(table({"musiq": scores}, IDS[:8]), IDS[:8], 8, [MetricSpec("musiq")], Rules())
    found = find_common(columns, IDS[:8])
    held = {method: set(np.flatnonzero(np.isfinite(values)).tolist()) for method, values in scores.items()}
    best = by_brute_force(held)
    if not best:
        assert found is None or 2 * len(found["methods"]) <= count
        return
    assert found is not None
    assert found["ids"] == [IDS[k] for k in sorted(set.intersection(*(held[m] for m in found["methods"])))]
    assert 2 * len(found["methods"]) > count
    assert len(found["methods"]) * len(found["ids"]) == best
    named = board({"musiq": {m: v[[IDS.index(i) for i in found["ids"]]] for m, v in scores.items()}},
                  found["ids"], 8, named=True)  # fmt: skip
    assert {m for m, row in named["metrics"]["musiq"]["rows"].items() if row["rank"]} >= set(found["methods"])


def test_named_ids_are_all_that_a_complete_method_has(base: np.ndarray) -> None:
    scores = {"musiq": {"a": base[:10], "b": base[:10] + 1, "c": cut(base[:10] + 2, 9)}}
    made = board(scores, IDS[:10], 250, named=True)
    rows = made["metrics"]["musiq"]["rows"]
    assert [rows[m]["rank"] for m in "abc"] == [2, 1, None]
    assert (made["metrics"]["musiq"]["n"], rows["a"]["n"], rows["a"]["of"]) == (10, 10, 250)
    assert made["below"] == ["c"]
    none = board({"musiq": {m: cut(v, 9) for m, v in scores["musiq"].items()}}, IDS[:10], 250, named=True)
    assert "no method has all 10 images" in none["metrics"]["musiq"]["why_not"]


def test_few_images_are_not_shown_and_change_no_rank(base: np.ndarray) -> None:
    scores = {"full": base[:12], "other": base[:12] - 1, "most": cut(base[:12] + 5, 9), "few": cut(base[:12] + 9, 3)}
    every, made = (board({"musiq": scores}, IDS[:12], 12, min_images=least) for least in (0, 5))
    assert (every["methods"], every["below"], every["not_shown"]) == (list(scores), ["most", "few"], {})
    assert (made["methods"], made["below"]) == (["full", "other", "most"], ["most"])
    assert made["not_shown"] == {"few": {"images": 3, "scores_missing": 9}}
    for method in made["methods"]:
        assert made["metrics"]["musiq"]["rows"][method] == every["metrics"]["musiq"]["rows"][method]
    assert {method for pair in made["metrics"]["musiq"]["shared"] for method in pair["methods"]} == set(made["methods"])
    assert "Not shown, with fewer images than --min-images: few (3)." in notes.notes(complete(made))
    alike = {"a": cut(base[:12], 4), "b": cut(base[:12] + 1, 4)}  # hiding takes nobody a rank
    rows = board({"musiq": alike}, IDS[:12], 12, allow_partial=True, min_images=9)["metrics"]["musiq"]["rows"]
    assert [rows[m]["rank"] for m in "ab"] == [2, 1]


def test_what_a_method_lacks_is_said_with_its_reasons(base: np.ndarray) -> None:
    holed = {"musiq": base.copy(), "nima": base.copy()}
    for values in holed.values():
        values[3] = np.nan
    holed["nima"][7] = np.nan
    made = complete(board({name: {"a": base, "b": base - 1, "c": holed[name] + 1} for name in holed}))
    assert made["gaps"] == {
        "c": [
            {"id": "003", "reason": "iqa_not_finite", "metrics": ["musiq", "nima"], "seeds": ["0"]},
            {"id": "007", "reason": "iqa_not_finite", "metrics": ["nima"], "seeds": ["0"]},
        ]
    }
    (line,) = [line for line in notes.notes(made) if line.startswith("c lacks")]
    assert line.startswith("c lacks 2 of 40 images: 003 (iqa_not_finite), 007 (iqa_not_finite in nima). Over the ")
    assert "musiq +1 to a (n=39, p=" in line
    assert "nima +1 to a (n=38, p=" in line


@pytest.mark.parametrize("test", statistics.TESTS)
@pytest.mark.parametrize(("images", "methods", "told"), [(5, 2, "p >= 0.0625"), (6, 2, None), (8, 8, "p >= 0.219")])
def test_where_nothing_can_be_significant_nothing_is_bold(
    images: int, methods: int, told: str | None, test: str, base: np.ndarray
) -> None:
    """The best case for every pair: one is better on every image."""
    noise = np.linspace(0, 0.1, images)
    scores = {f"m{k}": base[:images] + k * (1 + noise) for k in range(methods)}
    made = complete(board({"musiq": scores}, IDS[:images], images, test=test, groups={"g": ("musiq",)}))
    metric = made["metrics"]["musiq"]
    assert [row["rank"] for row in metric["rows"].values()] == list(range(methods, 0, -1))
    least = min(pair["p_holm"] for pair in metric["pairs"])
    assert least == pytest.approx(statistics.least_p(images, len(metric["pairs"]), test))
    if told is None:
        assert least < 0.05
        assert metric["no_test"] is None
        assert [row["tied_with_best"] for row in metric["rows"].values()] == [False, True]
        return
    assert least >= 0.05
    assert told in metric["no_test"]
    assert not any("tied_with_best" in row for row in metric["rows"].values())
    from benchmarks.report import tables

    assert not any(bold for line in tables.make_body(made) for _, bold in line)
    assert f"Nothing is bold in musiq: {metric['no_test']}." in notes.notes(made)


def test_one_image_and_few_resamples_test_nothing(base: np.ndarray) -> None:
    one = board({"musiq": {"a": base[:1], "b": base[:1] + 1}}, IDS[:1], 1)["metrics"]["musiq"]
    assert one["no_test"] == "no difference can be significant with 1 image and 1 pair of methods (p >= 1)"
    many = {f"m{k}": base + k for k in range(5)}
    few = board({"musiq": many}, resamples=100)["metrics"]["musiq"]
    assert "100 resamples (p >= 0.1)" in few["no_test"]
    assert min(pair["p"] for pair in few["pairs"]) == pytest.approx(0.01)
    assert board({"musiq": {"a": base}})["metrics"]["musiq"]["no_test"] is None


def test_paired_p_values_and_what_is_not_computed_stand_in_one_line_each(base: np.ndarray) -> None:
    made = complete(board({"niqe": {"a": base, "b": base + 1, "c": base - 1}}))
    made["not_computed"] = {
        "musiq": "musiq needs weights that are not here: musiq_koniq.pth in /x (from https://y)",
        "clipiqa": "clipiqa needs a Python package: pip install 'lucidflux[clip]'",
        "psnr": "psnr compares with a reference: give --gt DIR",
        "ssim": "ssim compares with a reference: give --gt DIR",
    }
    lines = notes.notes(made)
    p = {tuple(pair["methods"]): pair["p_holm"] for pair in made["metrics"]["niqe"]["pairs"]}
    want = f"a {p['a', 'c']:.2g}, b {p['b', 'c']:.2g}"
    assert f"niqe: c is first; paired p of the difference to it (Holm): {want}." in lines
    assert [line for line in lines if "Not computed" in line] == [
        "Not computed: musiq, clipiqa (`lucidflux bench doctor` says what is missing); "
        "psnr, ssim (compares with a reference: give --gt DIR)."
    ]


def test_of_many_methods_those_that_cost_most_ids_are_left_out() -> None:
    scores = {f"m{k:02d}": np.where(np.arange(40) < 30, 1.0, np.nan) for k in range(14)}
    scores["m03"], scores["m09"] = np.where(np.arange(40) < 2, 1.0, np.nan), np.where(np.arange(40) > 30, 1.0, np.nan)
    columns = read_columns(table({"musiq": scores}), IDS, 40, [MetricSpec("musiq")], Rules())
    found = find_common(columns, IDS)
    assert found == {"methods": [m for m in scores if m not in ("m03", "m09")], "ids": IDS[:30]}
