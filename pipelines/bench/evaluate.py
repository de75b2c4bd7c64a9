"""`lucidflux bench`: scores what is not in the cache through an executor, one metric at a time, and writes the results.

CPU metrics run on processes (or Ray tasks), learned metrics on one actor per GPU, each with its model loaded once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from benchmarks.leaderboard.schema import Board
from benchmarks.methods import submission
from benchmarks.methods.submission import Method
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import OWN, MetricSpec, Profile
from benchmarks.metrics.score import ImageRow, ScoreImages
from benchmarks.report import results
from benchmarks.report.results import Options
from benchmarks.suites import suite as suites
from benchmarks.suites.ids import select_ids
from benchmarks.suites.suite import Suite
from lucidflux_data.errors import ConfigError, Interrupted
from lucidflux_data.storage.folder import Folder
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import AnyUnit, Publish, Unit


@dataclass(frozen=True)
class ScoreUnit:
    """Adapts `ScoreImages` to units of work."""

    score: ScoreImages

    def __call__(self, unit: AnyUnit) -> Any:
        return self.score(unit.name, unit.payload)


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
        prepare.prepare(suites.load_suite(name, None), None, folder / name)
        suite = suites.load_suite(name, folder)
    return suites.with_folders(suite, places.inputs, places.gt, places.partial, places.ids, places.pattern)


def prepared_suite(name: str, folder: Path) -> Suite:
    """A suite whose images are below `folder`. ConfigError with what to do where they are not."""
    suite = choose_suite(name, folder, [], Places())
    if not suite.lq:
        raise ConfigError(f"the images of {name} are not here: `lucidflux bench prepare {name} --from ARCHIVE`")
    return suite


class Estimate(TypedDict):
    """What `bench --dry-run` prints."""

    suite: str  # name:version
    images: int
    methods: dict[str, list[str]]  # method -> remarks
    metrics: dict[str, dict[str, int | str]]  # metric -> cached and to_score, or sets, or not_computed: why not


def _ids(suite: Suite, methods: list[Method], options: Options) -> tuple[str, ...]:
    """The ids that are scored, of those that the suite has."""
    ids = submission.check_ids(methods, suite)
    return select_ids(ids, options.ids, options.limit, suite.ids is not None, suite.name)


def estimate_work(cache: Folder, suite: Suite, methods: list[Method], profile: Profile, options: Options) -> Estimate:
    """What `evaluate_outputs` would do: images, and per metric how many scores are cached and missing, or why not."""
    ids = _ids(suite, methods, options)
    submission.inspect(methods, suite, ids)
    metrics: dict[str, dict[str, int | str]] = {}
    for spec in profile.metrics:
        reason = evaluate.why_not(spec, suite, options.device)
        if reason is not None or spec.needs == "set":
            metrics[spec.name] = {"not_computed": reason} if reason else {"sets": sum(len(m.files) for m in methods)}
            continue
        items = evaluate.make_items(spec, methods, suite)
        known = evaluate.read_cache(cache, evaluate.cache_place(spec, options.device))
        cached = sum(evaluate.is_settled(known.get(item.key)) for item in items)
        metrics[spec.name] = {"cached": cached, "to_score": len(items) - cached}
    flags = {method.name: method.flags for method in methods}
    return {"suite": suite.label(), "images": len(ids), "methods": flags, "metrics": metrics}


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
    ids = _ids(suite, methods, options)
    results.start(out, suite, profile)
    progress.say(f"reading {sum(len(p) for m in methods for p in m.paths.values()):,} images of {len(methods)} methods")
    submission.inspect(methods, suite, ids)
    device = options.device
    not_computed: dict[str, str] = {}
    scores: dict[str, tuple[MetricSpec, dict[evaluate.Key, evaluate.ScoreRow]]] = {}
    sets: list[MetricSpec] = []
    for spec in profile.metrics:
        reason = evaluate.why_not(spec, suite, device)
        if reason is not None:
            not_computed[spec.name] = reason
        elif spec.needs == "set":
            sets.append(spec)
        else:
            try:
                scores[spec.name] = (spec, _score(spec, suite, methods, cache, executor, progress, device))
            except ConfigError as error:  # its files are there and do not load: the others are scored all the same
                not_computed[spec.name] = str(error)
    table = evaluate.per_image_table(suite, methods, ids, scores)
    table = pa.concat_tables([table, *(_score_sets(spec, suite, methods, device) for spec in sets)])
    specs = [spec for spec in profile.metrics if spec.name not in not_computed]
    board = results.write(out, table, suite, profile, methods, ids, specs, not_computed, options)
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
    size = 1 if spec.name in evaluate.SLOW else evaluate.UNIT_IMAGES
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


def _score_sets(spec: MetricSpec, suite: Suite, methods: list[Method], device: str) -> pa.Table:
    rows: list[ImageRow] = []
    for method in methods:
        for seed in method.files:
            rows.append(
                {
                    **evaluate.score_set(method, seed, suite, device),
                    "suite": suite.label(),
                    "method": method.name,
                    "seed": seed,
                    "id": "",
                    "metric": spec.name,
                }
            )
    return pa.Table.from_pylist(rows, evaluate.PER_IMAGE)
