"""`lucidflux bench`: scores what is not in the cache through an executor, one metric at a time, and writes the results.

CPU metrics run on processes (or Ray tasks), learned metrics on one actor per GPU, each with its model loaded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from benchmarks import evaluation
from benchmarks.leaderboard.schema import Board
from benchmarks.methods import submission
from benchmarks.methods.submission import Method
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import OWN, MetricSpec, Profile
from benchmarks.metrics.score import ScoreImages
from benchmarks.report import results
from benchmarks.report.results import Options
from benchmarks.suites.suite import Suite, check_images
from benchmarks.votes.read import read_votes
from lucidflux_data.errors import ConfigError, Interrupted
from lucidflux_data.storage.folder import Folder
from pipelines.execution.counting import counted
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import AnyUnit, Publish, Unit


@dataclass(frozen=True)
class ScoreUnit:
    """Adapts `ScoreImages` to units of work."""

    score: ScoreImages

    def __call__(self, unit: AnyUnit) -> Any:
        return self.score(unit.name, counted(unit.payload))


def prepared_suite(name: str, folder: Path) -> Suite:
    """A suite whose images are below `folder`. ConfigError with what to do where they are not."""
    suite = evaluation.choose_suite(name, folder, [], evaluation.Places())
    if not suite.lq:
        raise ConfigError(f"the images of {name} are not here: `lucidflux bench prepare {name} --from ARCHIVE`")
    return suite


class Estimate(TypedDict):
    """What `bench --dry-run` prints."""

    suite: str  # name:version
    images: int
    methods: dict[str, list[str]]  # method -> remarks
    metrics: dict[str, dict[str, int | str]]  # metric -> cached and to_score, or sets, or not_computed: why not
    votes: int


def estimate_work(cache: Folder, suite: Suite, methods: list[Method], profile: Profile, options: Options) -> Estimate:
    """What `evaluate_outputs` would do: images, and per metric how many scores are cached and missing, or why not."""
    ids = evaluation.choose_ids(suite, methods, options)
    check_images(suite, ids)
    submission.inspect(methods, suite, ids)
    votes = len(read_votes(options.votes, suite, methods).rows) if options.votes else 0
    metrics: dict[str, dict[str, int | str]] = {}
    for spec in profile.metrics:
        if spec.needs == "terms":
            metrics[spec.name] = {"cached": 0, "to_score": 0}  # from the others
            continue
        reason = evaluate.why_not(spec, suite, options.device)
        if reason is not None or spec.needs == "set":
            metrics[spec.name] = {"not_computed": reason} if reason else {"sets": sum(len(m.files) for m in methods)}
            continue
        items = evaluate.make_items(spec, methods, suite)
        cached = 0
        for each in evaluation.draws_of(spec):
            known = evaluate.read_cache(cache, evaluate.cache_place(each, options.device))
            cached += sum(evaluate.is_settled(known.get(item.key)) for item in items)
        metrics[spec.name] = {"cached": cached, "to_score": spec.draws * len(items) - cached}
    flags = {method.name: method.flags for method in methods}
    return {"suite": suite.label(), "images": len(ids), "methods": flags, "metrics": metrics, "votes": votes}


def count_missing(board: Board) -> tuple[int, int]:
    """(scores that are missing, those that were asked for)."""
    rows = [row for metric in board["metrics"].values() for row in metric["rows"].values()]
    wanted = board["images"]["scored"] * len(rows)
    unseen = sum(method["scores_missing"] for method in board["not_shown"].values())
    hidden = board["images"]["scored"] * len(board["not_shown"]) * len(board["metrics"])
    return wanted - sum(min(row["n"], board["images"]["scored"]) for row in rows) + unseen, wanted + hidden


def evaluate_outputs(
    out: Folder,
    cache: Folder,
    suite: Suite,
    methods: list[Method],
    profile: Profile,
    executor: Executor,
    progress: Progress,
    options: Options,
) -> Board:
    """Scores, writes the results folder and returns the leaderboard."""
    results.start(out, suite, profile)
    progress.say(f"reading {sum(len(p) for m in methods for p in m.paths.values()):,} images of {len(methods)} methods")

    def score(spec: MetricSpec) -> dict[evaluate.Key, evaluate.ScoreRow]:
        return _score(spec, suite, methods, cache, executor, progress, options.device)

    board = results.write(out, evaluation.evaluate(suite, methods, profile, options, score))
    out.sweep()
    return board


def _score(
    spec: MetricSpec,
    suite: Suite,
    methods: list[Method],
    cache: Folder,
    executor: Executor,
    progress: Progress,
    device: str,
) -> dict[evaluate.Key, evaluate.ScoreRow]:
    """All scores of one metric: from the cache, and what it lacked."""
    items = evaluate.make_items(spec, methods, suite)
    place = evaluate.cache_place(spec, device)
    known = evaluate.read_cache(cache, place)
    size = evaluate.unit_images(spec, items)
    units = [Unit(name, len(part), part) for name, part in evaluate.missing_units(items, known, size)]
    total = sum(unit.size for unit in units)
    work = ScoreUnit(ScoreImages(spec, device))
    try:
        with progress.phase(spec.name, total, len(items) - total) as advance:
            for unit, _ in executor.map(units, Publish(work, cache), None, stateful=spec.name not in OWN):
                advance(unit.size)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: repeat the command to resume") from None
    return evaluate.read_cache(cache, place) if units else known
