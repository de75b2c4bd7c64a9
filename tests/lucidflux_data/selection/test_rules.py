"""Selection against the rules written slowly, on random tables."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidflux_data.errors import ConfigError
from lucidflux_data.selection.config import CutConfig, RulesConfig, make_config
from lucidflux_data.selection.pool import Candidates, split_keys
from lucidflux_data.selection.records import CODE, FAILURES, KEPT, REASONS, is_kept
from lucidflux_data.selection.rules import apply_cut, apply_rules, number_kept

RULES = RulesConfig(min_side=100)


def random_candidates(rng: np.random.Generator, count: int) -> Candidates:
    return Candidates(
        keys_high=rng.integers(0, count // 2 + 1, count).astype(np.uint64),
        keys_low=rng.integers(0, 2, count).astype(np.uint16),
        failed=np.where(rng.random(count) < 0.1, rng.integers(0, len(FAILURES), count), KEPT).astype(np.int16),
        min_side=rng.integers(50, 300, count).astype(np.int32),
        laplacian_variance=rng.uniform(0, 9000, count),
        flat_fraction=rng.integers(0, 5, count) / 4,
        included=rng.random(count) < 0.05,
    )


def slowly(c: Candidates, row: int) -> str | None:
    """The first reason that applies, in the order of the contract."""
    if c.failed[row] != KEPT:
        return REASONS[c.failed[row]]
    same = [
        other
        for other in range(len(c))
        if c.failed[other] == KEPT and (c.keys_high[other], c.keys_low[other]) == (c.keys_high[row], c.keys_low[row])
    ]
    if row != min(same, key=lambda other: (not c.included[other], other)):
        return "duplicate"
    if c.included[row]:
        return "included"
    if c.min_side[row] < 100:
        return "too_small"
    if c.laplacian_variance[row] < 150:
        return "too_blurry"
    if c.laplacian_variance[row] > 8000:
        return "too_sharp"
    return "too_flat" if c.flat_fraction[row] > 0.5 else None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60))
def test_rules_and_cut_equal_the_slow_version(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    c = random_candidates(rng, count)
    codes = apply_rules(c, RULES)
    assert [None if code == KEPT else REASONS[code] for code in codes] == [slowly(c, row) for row in range(count)]
    scores = rng.integers(0, 6, count) / 5.0  # many ties
    failed = np.where(rng.random(count) < 0.2, CODE["iqa_not_finite"], KEPT).astype(np.int16)
    final, ranks = apply_cut(codes, c, scores, failed, False, CutConfig(top_fraction="0.3"))
    scored = [row for row in range(count) if codes[row] == KEPT and failed[row] == KEPT]
    ordered = sorted(scored, key=lambda row: (-scores[row], c.keys_high[row], c.keys_low[row]))
    keep = max(1, math.floor(len(ordered) * Decimal("0.3"))) if ordered else 0
    assert {row for row in scored if final[row] == KEPT} == set(ordered[:keep])
    assert [ranks[row] for row in ordered] == list(range(1, len(ordered) + 1))
    assert is_kept(final).sum() == keep + (codes == CODE["included"]).sum()


@pytest.mark.parametrize(
    ("n", "fraction", "kept"),
    [(10, "0.1", 1), (10, "0.3", 3), (1000, "0.29", 290), (3, "0.2", 1), (0, "0.2", 0), (7, "1", 7), (100, "0.57", 57)],
)
def test_the_fraction_is_a_decimal(n, fraction, kept) -> None:
    """0.29 x 1000 is 290 and 0.57 x 100 is 57; in binary floating point both come out one short."""
    assert number_kept(n, CutConfig(top_fraction=fraction)) == kept


def test_keys_sort_as_their_text() -> None:
    rng = np.random.default_rng(0)
    keys = [bytes(rng.integers(0, 256, 10, dtype=np.uint8)).hex() for _ in range(200)]
    high, low = split_keys("".join(keys).encode())
    assert [keys[i] for i in np.lexsort((low, high))] == sorted(keys)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("rules.minside=3", "no setting rules.minside"),
        ("cut.top_fraction=1.5", "at most 1"),
        ("cut.top_k=5", "exclude each other"),
        ("rules.min_laplacian_variance=9000", "nothing could be kept"),
        ("nothing", "name=value"),
    ],
)
def test_wrong_settings_are_one_sentence(setting, words) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(settings=[setting])
