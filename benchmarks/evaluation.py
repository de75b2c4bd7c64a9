"""Outputs of methods to scores of every image: which suite they are over, which ids, which metrics, and why not others.

How the scores of a metric are had, and where, is given: one after the other here, or by an executor of pipelines/.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from benchmarks.methods import submission
from benchmarks.methods.submission import Method
from benchmarks.metrics import score as scoring
from benchmarks.metrics import terms
from benchmarks.metrics.profiles import MetricSpec, Profile
from benchmarks.metrics.score import ImageRow
from benchmarks.report.results import Evaluated, Options
from benchmarks.suites import suite as suites
from benchmarks.suites.ids import select_ids
from benchmarks.suites.suite import Suite
from benchmarks.votes.read import read_votes
from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold

OTHERS_S = 600.0  # for another command that prepares a suite
Scores = dict[scoring.Key, scoring.ScoreRow]


@dataclass(frozen=True)
class Places:
    """The images that are compared with: --inputs and --gt, by ids that `pattern` finds in names; `partial`: of some of
    the ids; `ids`: that the user names."""

    inputs: Path | None = None
    gt: Path | None = None
    pattern: re.Pattern[str] | None = None
    partial: bool = False
    ids: tuple[str, ...] | None = None


def choose_suite(name: str | None, folder: Path, methods: list[Method], places: Places) -> Suite:
    """The named suite, with --inputs and --gt in place of images that are not prepared; else an ad hoc one."""
    if name is None:
        every = {id_ for method in methods for paths in method.paths.values() for id_ in paths}
        return suites.ad_hoc_suite(places.inputs, places.gt, every | set(places.ids or ()), places.pattern)
    from benchmarks.suites import prepare

    suite = suites.load_suite(name, folder)
    if prepare.makes_itself(suite) and not prepare.is_current(suite):
        with hold(Folder(folder), OTHERS_S, new=True):
            if not prepare.is_current(suites.load_suite(name, folder)):  # or another command did it meanwhile
                prepare.prepare(suites.load_suite(name, None), None, folder / name)
        suite = suites.load_suite(name, folder)
    return suites.with_folders(suite, places.inputs, places.gt, places.partial, places.ids, places.pattern)


def choose_ids(suite: Suite, methods: list[Method], options: Options) -> tuple[str, ...]:
    """The ids that are scored, of those that the suite has."""
    ids = submission.check_ids(methods, suite)
    return select_ids(ids, options.ids, options.limit, suite.ids is not None, suite.name)


def evaluate(
    suite: Suite, methods: list[Method], profile: Profile, options: Options, score: Callable[[MetricSpec], Scores]
) -> Evaluated:
    """Every score that can be had. `score`: gives those of one metric of single images, of all methods; a ConfigError
    of it is the reason why the metric is not computed."""
    ids = choose_ids(suite, methods, options)
    suites.check_images(suite, ids)
    submission.inspect(methods, suite, ids)
    votes = read_votes(options.votes, suite, methods) if options.votes else None  # before anything is scored
    not_computed: dict[str, str] = {}
    scores: dict[str, tuple[MetricSpec, Scores]] = {}
    sets: list[MetricSpec] = []
    draws: dict[str, list[Scores]] = {}
    for spec in (spec for spec in profile.metrics if spec.needs != "terms"):
        reason = scoring.why_not(spec, suite, options.device)
        if reason is not None:
            not_computed[spec.name] = reason
        elif spec.needs == "set":
            sets.append(spec)
        else:
            try:
                drawn = [score(each) for each in draws_of(spec)]
                if len(drawn) > 1:
                    draws[spec.name] = drawn
                scores[spec.name] = spec, drawn[0] if len(drawn) == 1 else scoring.average_draws(drawn)
            except ConfigError as error:  # its files are there and do not load: the others are scored all the same
                not_computed[spec.name] = str(error)
    table = scoring.per_image_table(suite, methods, ids, scores)
    table = pa.concat_tables([table, *(_score_sets(spec, suite, methods, options.device) for spec in sets)])
    for spec in (spec for spec in profile.metrics if spec.needs == "terms"):
        lacking = terms.why_no_sum(spec.name, list(scores))
        if lacking is not None:
            not_computed[spec.name] = lacking
        else:
            table = pa.concat_tables([table, terms.sum_table(spec.name, table)])
    specs = [spec for spec in profile.metrics if spec.name not in not_computed]
    return Evaluated(table, suite, profile, methods, ids, specs, not_computed, options, votes, draws)


def draws_of(spec: MetricSpec) -> list[MetricSpec]:
    """A metric once, or once for every draw of one whose answers are drawn."""
    return [replace(spec, draw=number + 1) for number in range(spec.draws)] if spec.draws > 1 else [spec]


def _score_sets(spec: MetricSpec, suite: Suite, methods: list[Method], device: str) -> pa.Table:
    rows: list[ImageRow] = []
    for method in methods:
        for seed in method.files:
            rows.append(
                {
                    **scoring.score_set(method, seed, suite, device),
                    "suite": suite.label(),
                    "method": method.name,
                    "seed": seed,
                    "id": "",
                    "metric": spec.name,
                }
            )
    return pa.Table.from_pylist(rows, scoring.PER_IMAGE)
