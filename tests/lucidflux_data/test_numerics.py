"""What stands in for SciPy, against SciPy and brute force."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from lucidflux_data import numerics
from lucidflux_data.degradation import kernels, noise
from tests.support.paths import ROOT

NORMALS = "723a394acd0887a9b6e3a2d6ca094566b7e4c7c55793126d96034382c0a5657b"


def test_bessel_equals_scipys() -> None:
    x = np.concatenate([np.linspace(0, 199.9, 20_001), np.random.default_rng(0).uniform(0, 60, 20_000)])
    pieces = [x[start : start + 1000].reshape(10, -1) for start in range(0, len(x) - 1000, 1000)]
    found = np.concatenate([numerics.bessel_j1(piece).ravel() for piece in pieces])
    assert np.abs(found - special.j1(x[: len(found)])).max() < 5e-15
    assert numerics.bessel_j1(np.zeros(3)).tolist() == [0, 0, 0]
    tiny = np.array([1e-300, 1e-8, 1e-3])
    assert numerics.bessel_j1(tiny) == pytest.approx(special.j1(tiny), rel=1e-14, abs=0)


def test_sinc_kernels_are_those_of_scipys_bessel_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As float32, in which images are filtered: every size that a config may name, cut-offs over what may be drawn."""
    drawn = np.random.default_rng(1).uniform(math.pi / 5, math.pi, (25, 40))
    asked = [(size, cutoff) for size, some in zip(range(3, 53, 2), drawn, strict=True) for cutoff in [*some, math.pi]]

    def made() -> list[np.ndarray]:
        plans: list[kernels.Kernel] = [{"type": "sinc", "size": size, "cutoff": cutoff} for size, cutoff in asked]
        return [kernels.make_kernel(plan).astype(np.float32) for plan in plans]

    own = made()
    monkeypatch.setattr(kernels, "bessel_j1", special.j1)
    assert sum(int((one != other).sum()) for one, other in zip(own, made(), strict=True)) == 0


def test_the_table_of_normals_is_that_of_scipys_quantiles_to_the_last_bit() -> None:
    edges = special.ndtri(np.arange(65537) / 65536)
    density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    means = (density[:-1] - density[1:]) * 65536
    table = noise.normal_slices()
    assert np.array_equal(table, (means / means.std()).astype(np.float32))
    assert hashlib.sha256(table.astype("<f4").tobytes()).hexdigest() == NORMALS


@given(st.floats(0, 2000), st.integers(1, 300))
@settings(max_examples=400, deadline=None)
def test_the_tail_of_chi_square_equals_scipys(statistic: float, degrees: int) -> None:
    exact = float(special.chdtrc(degrees, statistic))
    assert numerics.chi_square_tail(statistic, degrees) == pytest.approx(exact, rel=1e-11, abs=1e-290)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.1, 5))
@settings(max_examples=200, deadline=None)
def test_the_interval_of_a_share_equals_scipys(of: tuple[int, int], z: float) -> None:
    other = stats.binomtest(*of).proportion_ci(1 - 2 * float(stats.norm.sf(z)), method="wilson")
    assert numerics.wilson_interval(*of, z) == pytest.approx((other.low, other.high), rel=1e-9, abs=1e-12)


coarse = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=60).map(np.array)  # many are equal


@given(coarse, coarse)
@settings(max_examples=200, deadline=None)
def test_the_gap_of_two_distributions_equals_scipys(first: np.ndarray, second: np.ndarray) -> None:
    with np.errstate(divide="ignore"):  # its p, of one value against one
        other = stats.ks_2samp(first, second, method="asymp").statistic
    assert numerics.largest_gap(np.sort(first), np.sort(second)) == pytest.approx(float(other), abs=1e-15)


@given(coarse)
@settings(max_examples=200, deadline=None)
def test_ranks_equal_scipys(values: np.ndarray) -> None:
    assert np.array_equal(numerics.average_ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ranks_along_an_axis_equal_scipys(axis: int) -> None:
    values = np.random.default_rng(axis).integers(0, 4, (3, 5, 7)).astype(float)
    values[1, 2, 3] = np.nan
    assert np.array_equal(numerics.average_ranks(values, axis), stats.rankdata(values, axis=axis), equal_nan=True)
    assert numerics.average_ranks(values[:1, :0, :], 1).shape == (1, 0, 7)


@pytest.mark.parametrize("n", [1, 2, 5, 20, 49, 50, 51, 52, 300])
def test_signed_ranks_without_ties_equal_scipys(n: int) -> None:
    for seed, shift in product(range(5), (0.0, 0.4)):
        differences = np.random.default_rng([n, seed]).normal(shift, 1, n)
        assert numerics.signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-12)


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=10).map(np.array))
@settings(max_examples=60, deadline=None)
def test_signed_ranks_with_ties_equal_all_patterns_of_signs(differences: np.ndarray) -> None:
    left = differences[differences != 0]
    if len(left) == 0:
        assert numerics.signed_rank_p(differences) == 1.0
        return
    ranks = stats.rankdata(np.abs(left))
    sums = np.array(list(product((0, 1), repeat=len(left)))) @ ranks
    positive = ranks[left > 0].sum()
    least = min((sums <= positive).mean(), (sums >= positive).mean())
    assert numerics.signed_rank_p(differences) == pytest.approx(min(1.0, 2 * least), rel=1e-12)


@pytest.mark.parametrize("n", [60, 250, 2000])
def test_signed_ranks_of_many_with_ties_equal_scipys(n: int) -> None:
    differences = np.random.default_rng(n).integers(-5, 7, n).astype(float)
    assert numerics.signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue, rel=1e-11)


def test_the_product_is_imported_without_scipy() -> None:
    code = "import sys; sys.modules['scipy'] = None; import benchmarks.leaderboard.board, benchmarks.report.page, \
lucidflux_data.audit.compare, lucidflux_data.degradation.opencv, lucidflux_data.pairs.card, pipelines.filter.estimate"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
