"""Statistics against closed forms, scipy and brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.board import make_leaderboard
from benchmarks.leaderboard.columns import Rules
from benchmarks.leaderboard.statistics import Bootstrap
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import PER_IMAGE


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return np.random.default_rng(3).normal(4, 1, (2, 250))


def test_resampled_means_have_the_spread_of_the_closed_form(scores: np.ndarray) -> None:
    means = Bootstrap(250, 20_000).means(scores[:1])
    assert means.mean() == pytest.approx(scores[0].mean(), abs=0.002)
    assert means.std() == pytest.approx(scores[0].std() / np.sqrt(250), rel=0.02)  # plug-in standard error


def test_interval_equals_scipys_percentile_bootstrap(scores: np.ndarray) -> None:
    mine = statistics.interval(Bootstrap(250, 20_000).means(scores[:1]))
    other = stats.bootstrap((scores[0],), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert mine == pytest.approx((other.low, other.high), abs=0.006)


def test_two_seeds_add_the_variance_of_the_seeds(scores: np.ndarray) -> None:
    """Crossed resampling: var = that of the drawn images / n + that of the seed means / 2."""
    shifted = scores + np.array([[0.0], [1.0]])
    spread = Bootstrap(250, 20_000).means(shifted).var()
    seeds = shifted.mean(axis=1)
    both_drawn = np.mean([shifted[a].var() if a == b else shifted.mean(axis=0).var() for a in (0, 1) for b in (0, 1)])
    assert spread == pytest.approx(seeds.var() / 2 + both_drawn / 250, rel=0.05)


def test_the_same_draw_serves_every_method(scores: np.ndarray) -> None:
    draws = Bootstrap(250, 500)
    difference = draws.means(scores[:1]) - draws.means(scores[1:])
    assert np.allclose(difference, draws.means(scores[:1] - scores[1:]))
    assert np.array_equal(draws.images, Bootstrap(250, 500).images)


def test_paired_interval_is_narrower_than_unpaired_for_correlated_scores() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, 200)
    first, second = image + rng.normal(0, 0.1, 200), image + rng.normal(0, 0.1, 200)
    draws = Bootstrap(200, 5000)
    low, high = statistics.interval(draws.means(first[None]) - draws.means(second[None]))
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.02) / np.sqrt(200), rel=0.15)


@pytest.mark.parametrize("n", [4, 9])
def test_permutation_p_equals_brute_force(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    observed = abs(differences.mean())
    flipped = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=n)]
    expected = np.mean([value >= observed * (1 - 1e-12) for value in flipped])
    assert statistics.permutation_p(differences) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [12, 60])
def test_permutation_p_equals_scipys(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    options = {"permutation_type": "samples", "n_resamples": np.inf if n == 12 else 9999, "vectorized": True}
    other = stats.permutation_test((differences,), lambda x, axis: np.mean(x, axis=axis), **options)
    assert statistics.permutation_p(differences) == pytest.approx(other.pvalue, abs=1e-9 if n == 12 else 0.01)


def test_permutation_p_approaches_the_t_test() -> None:
    differences = np.random.default_rng(5).normal(0.12, 1, 250)
    assert statistics.permutation_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert statistics.permutation_p(np.zeros(5)) == 1.0
    assert statistics.paired_p(differences, "wilcoxon") == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-12)
    assert statistics.paired_p(np.zeros(5), "wilcoxon") == 1.0


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_directions(sign: int) -> None:
    """With sign -1 the smallest value is the best one."""
    assert statistics.ranks([1.0, 3.0, 2.0, 3.0], sign) == ([4, 1, 3, 1] if sign == 1 else [1, 3, 2, 3])
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 1.0, 5.0])
    better = sum(sign * (a - b) > 0 for a, b in zip(first, second, strict=True)) + 0.5
    assert statistics.win_rate(first, second, sign) == better / 4
    assert statistics.win_rate(first, second, sign) + statistics.win_rate(second, first, sign) == 1
    shares = statistics.first_shares(np.array([[1.0, 5.0, 2.0], [2.0, 4.0, 2.0]]), sign)
    assert shares == pytest.approx([0.5, 0.5])


def test_mean_ranks_turn_lower_is_better_around() -> None:
    means = np.array([[[3.5], [4.0], [5.0]], [[70.0], [65.0], [60.0]]])  # niqe, musiq of three methods
    assert statistics.mean_ranks(means, [-1, 1])[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert statistics.mean_ranks(means, [1, 1])[:, 0].tolist() == [2.0, 2.0, 2.0]


def test_correlation_equals_scipy(scores: np.ndarray) -> None:
    columns = np.stack([scores[0], scores[0] ** 3, scores[1], -scores[0]], axis=1)
    assert np.allclose(statistics.correlation(columns), stats.spearmanr(columns).statistic)


def test_detectable_difference_is_found_at_its_power() -> None:
    """Simulated: differences with exactly that mean are found by a z test in 80% of the cases."""
    rng = np.random.default_rng(9)
    base = rng.normal(0, 1, 100)
    effect = statistics.detectable_difference(base)
    trials = rng.normal(effect, base.std(ddof=1), (4000, 100))
    z = trials.mean(axis=1) / (base.std(ddof=1) / 10)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.02)


def test_equal_scores_tie_whatever_the_number_of_their_seeds_and_their_order() -> None:
    """Sums of the same numbers differ in their last bits: no rank, share or test may follow those."""
    rng = np.random.default_rng(0)
    ids = [f"{number:03d}" for number in range(40)]
    scores = rng.uniform(0, 1, (3, 40))
    apart = {"one": scores[:1], "three": np.repeat(scores[:1], 3, 0), "six": np.repeat(scores[:1], 6, 0)}
    mixed = {"given": scores, "turned": scores[[2, 0, 1]]}
    for methods in (apart, mixed):
        rows = [
            {"suite": "s", "method": name, "seed": str(seed), "id": id_, "metric": "psnr", "value": value,
             "reason": None, "seconds": None}
            for name, by_seed in methods.items() for seed, values in enumerate(by_seed)
            for id_, value in zip(ids, values.tolist(), strict=True)
        ]  # fmt: skip
        table = pa.Table.from_pylist(rows, PER_IMAGE)
        board = make_leaderboard(table, ids, 40, [MetricSpec("psnr")], {"g": ("psnr",)}, Rules(resamples=200))
        psnr = board["metrics"]["psnr"]
        assert {row["rank"] for row in psnr["rows"].values()} == {1}
        assert {row["tied_with_best"] for row in psnr["rows"].values()} == {True}
        assert {pair["p"] for pair in psnr["pairs"]} == {1.0}
        assert {share for shares in psnr["win_rate"].values() for share in shares.values()} == {0.5}
        assert {row["rank"] for row in board["groups"]["g"]["rows"].values()} == {1}
    assert statistics.without_noise(np.array([0.0, 0.1 + 0.2, -1234.5])).tolist() == [0.0, 0.3, -1234.5]
