"""What the votes say: strengths with intervals, how far raters agree with themselves and each other, and metrics with
them.

Intervals are of raters and of images: each resample draws both anew, and a vote counts as often as its rater times as
often as its image (Owen, Annals of Applied Statistics 1, 2007). Repeated comparisons count for a rater's consistency
alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.schema import Agreement, RaterRow, VotePair, VoteRow, VotesTable
from benchmarks.leaderboard.statistics import Bootstrap
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.votes.read import Vote, Votes
from benchmarks.votes.strengths import fit_strengths, why_none

CHUNK = 500  # resamples at a time
RATERS = 1  # seed of the draws of raters; those of images have 0
Scores = dict[tuple[str, str], float]  # (method, id) -> value


@dataclass(frozen=True)
class _Draws:
    """(resamples, raters) and (resamples, images) of weights."""

    raters: np.ndarray
    images: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(resamples,) sums of (raters, images) of values."""
        return np.asarray(((self.raters @ values) * self.images).sum(axis=1))


def summarise_votes(
    votes: Votes, methods: Sequence[Method], table: pa.Table, specs: Sequence[MetricSpec], resamples: int
) -> VotesTable:
    """The table of the votes beside the scores of images (metrics.score.PER_IMAGE)."""
    once = [vote for vote in votes.rows if not vote.repeat]
    shown = {name for vote in once for name in (vote.winner, vote.loser)}
    names = [method.name for method in methods if method.name in shown]
    raters, images = sorted({vote.rater for vote in once}), sorted({vote.id for vote in once})
    draws = _Draws(Bootstrap(len(raters), resamples, RATERS).images, Bootstrap(len(images), resamples).images)
    at = {rater: k for k, rater in enumerate(raters)}, {id_: k for k, id_ in enumerate(images)}
    wins = np.zeros((len(raters), len(images), len(names), len(names)))
    for vote in once:
        wins[at[0][vote.rater], at[1][vote.id], names.index(vote.winner), names.index(vote.loser)] += 1
    rows, why_not, unbounded = _rows(names, wins, draws)
    first_seeds = {method.name: next(iter(method.files)) for method in methods}
    return {
        "study": votes.study,
        "votes": len(once),
        "images": len(images),
        "rows": rows,
        "pairs": _pairs(names, wins.sum(axis=(0, 1))),
        "why_not": why_not,
        "unbounded": unbounded,
        "raters": {rater: _rater(rater, votes.rows) for rater in raters},
        "among_raters": _among_raters(once),
        "metrics": {
            spec.name: _agreement(once, _scores(table, spec.name, first_seeds), spec.sign, at, draws)
            for spec in specs
            if spec.needs != "set"
        },
        "remarks": _remarks(votes, [method.name for method in methods if method.name not in shown], len(raters)),
    }


def _rows(names: list[str], wins: np.ndarray, draws: _Draws) -> tuple[dict[str, VoteRow], str | None, float]:
    """(rows, why nobody is ranked, the share of resamples without finite strengths). wins: (raters, images, K, K)."""
    total = wins.sum(axis=(0, 1))
    rows: dict[str, VoteRow] = {
        name: {"votes": int(total[k].sum() + total[:, k].sum()), "wins": int(total[k].sum()), "strength": None,
               "low": None, "high": None, "rank": None, "first_share": None, "tied_with_best": None}
        for k, name in enumerate(names)
    }  # fmt: skip
    why_not = why_none(total, names)
    strengths = statistics.without_noise(fit_strengths(total))
    if why_not is not None or np.isnan(strengths).any():
        return rows, why_not or "no finite strengths were found", 1.0
    resampled = statistics.without_noise(np.concatenate(_resample(wins, draws)))
    lost = np.isnan(resampled).any(axis=1)
    ranks = statistics.ranks(strengths.tolist(), 1)
    best = ranks.index(1)
    first = resampled == resampled.max(axis=1, keepdims=True)
    for k, row in enumerate(rows.values()):
        low, high = _bounds(resampled[:, k])
        row["strength"], row["rank"] = float(strengths[k]), ranks[k]
        row["low"], row["high"] = _ending(low), _ending(high)
        row["first_share"] = round(float((first[:, k] / np.maximum(1, first.sum(axis=1))).mean()), 4)
        row["tied_with_best"] = ranks[k] == 1 or bool(_bounds(resampled[:, best] - resampled[:, k])[0] <= 0)
    return rows, None, round(float(lost.mean()), 4)


def _resample(wins: np.ndarray, draws: _Draws) -> list[np.ndarray]:
    """Strengths of every resample, (CHUNK, K) at a time; NaN where none fit."""
    raters, images = wins.shape[:2]
    found = []
    for start in range(0, len(draws.raters), CHUNK):
        part = slice(start, start + CHUNK)
        by_image = (draws.raters[part] @ wins.reshape(raters, -1)).reshape(-1, images, wins.shape[2] * wins.shape[3])
        weights = np.einsum("bi,bik->bk", draws.images[part], by_image)
        found.append(fit_strengths(weights.reshape(-1, *wins.shape[2:])))
    return found


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """The central interval; a value that is none could be anything, which widens it on both sides."""
    tail = (1 - statistics.LEVEL) / 2
    lost = np.isnan(values)
    low = np.quantile(np.where(lost, -np.inf, values), tail, method="lower")
    high = np.quantile(np.where(lost, np.inf, values), 1 - tail, method="higher")
    return float(low), float(high)


def _ending(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _pairs(names: list[str], wins: np.ndarray) -> list[VotePair]:
    pairs: list[VotePair] = []
    for a, b in combinations(range(len(names)), 2):
        shown = int(wins[a, b] + wins[b, a])
        if shown:
            pairs.append({"methods": [names[a], names[b]], "votes": shown, "wins": int(wins[a, b])})
    return pairs


def _by_trial(rows: Sequence[Vote]) -> dict[tuple[str, str, str], list[Vote]]:
    """Votes by image and pair, whoever won."""
    found = defaultdict(list)
    for vote in rows:
        first, second = sorted((vote.winner, vote.loser))
        found[vote.id, first, second].append(vote)
    return found


def _rater(name: str, rows: Sequence[Vote]) -> RaterRow:
    mine = [vote for vote in rows if vote.rater == name]
    twice = [pair for pair in _by_trial(mine).values() if len(pair) == 2]
    row: RaterRow = {
        "votes": sum(not vote.repeat for vote in mine),
        "repeats": len(twice),
        "same": sum(first.winner == second.winner for first, second in twice),
        "left": round(sum(vote.left_won for vote in mine) / len(mine), 4),
        "shared": 0,
        "with_others": 0,
    }
    for trial in _by_trial([vote for vote in rows if not vote.repeat]).values():
        own = next((vote.winner for vote in trial if vote.rater == name), None)
        others = Counter(vote.winner for vote in trial if vote.rater != name).most_common()
        if own is not None and others and (len(others) == 1 or others[0][1] > others[1][1]):
            row["shared"] += 1
            row["with_others"] += own == others[0][0]
    return row


def _among_raters(once: Sequence[Vote]) -> Agreement:
    """Over every two raters of the same pair on the same image: a metric cannot be expected to do better."""
    same = total = 0
    for trial in _by_trial(once).values():
        total += len(trial) * (len(trial) - 1) // 2
        same += sum(count * (count - 1) // 2 for count in Counter(vote.winner for vote in trial).values())
    return {"n": total, "share": same / total if total else None, "low": None, "high": None}


def _scores(table: pa.Table, metric: str, seeds: dict[str, str]) -> Scores:
    return {
        (row["method"], row["id"]): row["value"]
        for row in table.to_pylist()
        if row["metric"] == metric and row["value"] is not None and seeds.get(row["method"]) == row["seed"]
    }


def _agreement(
    once: Sequence[Vote], scores: Scores, sign: int, at: tuple[dict[str, int], dict[str, int]], draws: _Draws
) -> Agreement:
    """How often the picture that was chosen has the better score."""
    agreed, counted = (np.zeros((len(at[0]), len(at[1]))) for _ in range(2))
    for vote in once:
        winner, loser = scores.get((vote.winner, vote.id)), scores.get((vote.loser, vote.id))
        if winner is not None and loser is not None:
            place = at[0][vote.rater], at[1][vote.id]
            gain = sign * (winner - loser)
            agreed[place] += 0.5 if gain == 0 else gain > 0
            counted[place] += 1
    n = int(counted.sum())
    if not n:
        return {"n": 0, "share": None, "low": None, "high": None}
    with np.errstate(invalid="ignore"):
        low, high = _bounds(draws.sums(agreed) / draws.sums(counted))
    return {"n": n, "share": float(agreed.sum() / n), "low": max(0.0, low), "high": min(1.0, high)}


def _remarks(votes: Votes, unseen: list[str], raters: int) -> list[str]:
    lines = []
    if votes.unknown:
        lines.append(f"{votes.unknown} votes are on pictures that are none of these outputs, and do not count")
    if votes.twice:
        lines.append(f"{votes.twice} votes stand in the files twice, and count once")
    if unseen:
        lines.append(f"no vote is on {', '.join(unseen)}")
    if raters == 1:
        lines.append("there is one rater: intervals say nothing of others")
    return lines
