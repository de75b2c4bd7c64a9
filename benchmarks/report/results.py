"""A results folder: the per-image table, the leaderboard in every format, the environment, the page.

    RESULTS/run.json per_image.parquet leaderboard.{json,md,tex,csv} environment.json report.html [common_ids.txt]

Everything but environment.json and the seconds of the table follows from the outputs, the suite and the profile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import environment
from benchmarks.leaderboard import published, statistics
from benchmarks.leaderboard.board import BOARD, TABLE, make_leaderboard
from benchmarks.leaderboard.columns import Rules
from benchmarks.leaderboard.schema import (
    Board,
    ColouredRow,
    MetricTable,
    RunCost,
    ScoreBoard,
    VotesTable,
    WithoutFlagged,
)
from benchmarks.methods.method_file import MethodFile
from benchmarks.methods.submission import Method
from benchmarks.metrics import score as evaluate
from benchmarks.metrics.profiles import SMALL_FID_SET, MetricSpec, Profile
from benchmarks.metrics.terms import clamped_notes
from benchmarks.report import page as report
from benchmarks.report import tables
from benchmarks.report.draws import settle_draws
from benchmarks.report.notes import COMMON_IDS
from benchmarks.suites.suite import AD_HOC, Suite
from benchmarks.votes.read import Votes
from benchmarks.votes.summary import summarise_votes
from lucidflux_data.config import digest
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.iqa.pins import file_sha256
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import indented_json, table_bytes

CLIP_NOTE = (
    "LucidFlux's training images were the best fifth by CLIP-IQA: clipiqa and clipiqa+ are not neutral for it, nor for "
    "models trained on data that was cut so"
)
DIGITS = 16  # of a sha256, in leaderboard.json


@dataclass(frozen=True)
class Options:
    """How a leaderboard is made. `ids`: that the user names, None for the suite's; `limit`: images that are drawn of
    the suite's, None for all; `min_images`: of unranked methods that are shown; `device`: cpu or cuda, of learned
    metrics; `groups`: name -> metrics of overall ranks, beside the profile's; `votes`: csv files of raters."""

    allow_partial: bool = False
    ids: tuple[str, ...] | None = None
    min_images: int = 0
    test: str = "permutation"
    resamples: int = statistics.RESAMPLES
    limit: int | None = None
    device: str = "cpu"
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    votes: tuple[Path, ...] = ()


def start(folder: Folder, suite: Suite, profile: Profile) -> None:
    """Writes run.json. ConfigError where the folder holds something else, or another suite's or profile's results."""
    metrics = [{"name": spec.name, **spec.parameters()} for spec in profile.metrics]
    about = {"schema_version": 1, "suite": suite.label(), "profile": profile.name, "metrics": metrics}

    def resume(before: Mapping[str, object]) -> bool:
        if {key: before.get(key) for key in ("suite", "profile")} != {"suite": suite.label(), "profile": profile.name}:
            raise ConfigError(
                f"{folder} holds results of {before.get('suite')}, {before.get('profile')}: choose another --out"
            )
        return True

    def taken(place: Folder) -> bool:
        return any(not name.startswith(".") for name in (*place.names(), *place.folders()))

    claim(folder, about, "is not empty and holds no results", resume, encode=indented_json, taken=taken)


@dataclass(frozen=True)
class Evaluated:
    """What was scored: `table` (metrics.score.PER_IMAGE) over the `ids` of a suite; `specs`: the metrics in it;
    `not_computed`: the others of the profile, with the reason."""

    table: pa.Table
    suite: Suite
    profile: Profile
    methods: list[Method]
    ids: tuple[str, ...]
    specs: list[MetricSpec]
    not_computed: dict[str, str]
    options: Options
    votes: Votes | None = None
    draws: dict[str, list[dict[evaluate.Key, evaluate.ScoreRow]]] = field(default_factory=dict)


def make_board(scored: Evaluated, surroundings: environment.Environment) -> Board:
    """The leaderboard of a per-image table. ConfigError where a group names a metric that was not asked for."""
    suite, profile, methods, ids, options = scored.suite, scored.profile, scored.methods, scored.ids, scored.options
    part = options.ids is not None or options.limit
    total = max(suite.count, len(ids)) if suite.ids is None or part else len(suite.ids)
    groups = profile.groups | options.groups
    check_groups(groups, profile)
    groups = {name: names for name, names in groups.items() if not _needs_absent(names, scored.not_computed, suite)}
    in_sets = {method.name: evaluate.images_in_sets(method, suite) for method in methods}
    rules = Rules(
        options.allow_partial,
        named=options.ids is not None,
        sampled=bool(options.limit) and suite.ids is not None,
        min_images=options.min_images,
        test=options.test,
        resamples=options.resamples,
    )
    scores = make_leaderboard(scored.table, ids, total, scored.specs, groups, rules, in_sets)
    specs = settle_draws(scored.specs, scored.draws, methods, scores)
    if specs != scored.specs:
        spreads = {name: scores["metrics"][name].get("spread", {}) for name in scored.draws}
        scores = make_leaderboard(scored.table, ids, total, specs, groups, rules, in_sets)
        for name, spread in spreads.items():
            scores["metrics"][name]["spread"] = spread
    over = _ranked_over(scores, len(ids))
    compared = {} if suite.fingerprint else _hash_images(suite, ids)
    pin = _pin(suite, compared)
    votes = _votes(scored)
    flagged = {id_: rule for id_, rule in suite.flagged.items() if id_ in ids}
    left = tuple(id_ for id_ in ids if id_ not in flagged)
    without: WithoutFlagged | None = None
    if flagged and left:
        part_of = scored.table.filter(pc.is_in(scored.table["id"], pa.array(left)))
        single = [spec for spec in scored.specs if spec.needs != "set"]
        again = make_leaderboard(part_of, left, len(left), single, {}, replace(rules, sampled=False, named=True))
        without = {"flagged": flagged, "n": len(left), "ranks": _ranks(again["metrics"])}
    return {
        "schema_version": 1,
        "suite": suite.label(),
        "profile": profile.name,
        "about": profile.about,
        **scores,
        "flags": {method.name: method.flags for method in methods},
        "runs": {method.name: _cost(method.about) for method in methods if method.about},
        "not_computed": scored.not_computed,
        "footnotes": [*_footnotes(suite, scored.specs, ids, options), *clamped_notes(_means(scores["metrics"]))],
        "published": _published(suite, scores["metrics"]),
        "signature": signature(
            suite, pin, scored.specs, over, total, options.device, surroundings["hash"], options.ids
        ),
        "compared_with": compared,
        "without_flagged": without,
        "votes": votes,
    }


def _votes(scored: Evaluated) -> VotesTable | None:
    if scored.votes is None:
        return None
    return summarise_votes(scored.votes, scored.methods, scored.table, scored.specs, scored.options.resamples)


def _hash_images(suite: Suite, ids: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Role -> id -> digits of the sha256 of the input or the reference, as far as they are at hand."""
    places = {"lq": suite.lq, "gt": suite.gt}
    return {
        role: {id_: file_sha256(files[id_])[:DIGITS] for id_ in ids if id_ in files}
        for role, files in places.items()
        if files
    }


def _pin(suite: Suite, compared: dict[str, dict[str, str]]) -> str:
    if suite.fingerprint:
        return f"pin:{suite.fingerprint[:8]}"
    return f"unpinned:{digest(compared)[:8]}" if compared else "unpinned"


def write(folder: Folder, scored: Evaluated) -> Board:
    """Makes the leaderboard and publishes everything, the board last. Returns the leaderboard."""
    surroundings = environment.capture()
    board = make_board(scored, surroundings)
    folder.publish(TABLE, table_bytes(scored.table))
    folder.publish("environment.json", indented_json(surroundings))
    for name, render in tables.RENDERERS.items():
        folder.publish(name, render(board).encode())
    _offer_common_ids(folder, board)
    page = report.make_report(board, scored.table, scored.ids, scored.specs, scored.suite, scored.methods)
    folder.publish("report.html", page)
    folder.publish(
        BOARD,
        (json.dumps(board, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace"),
    )
    return board


def _offer_common_ids(folder: Folder, board: Board) -> None:
    """A file for --ids, where nobody has every image and most share some; an earlier one goes."""
    if board["common"]:
        folder.publish(COMMON_IDS, "".join(f"{id_}\n" for id_ in board["common"]["ids"]).encode())
    elif folder.exists(COMMON_IDS):
        folder.remove(COMMON_IDS)


def _ranked_over(board: ScoreBoard, scored: int) -> int:
    """The images that every ranked metric's ranks are over: all that were scored, or a part that methods share. Where
    nobody is ranked, the most that a method has."""
    ranked = [metric for metric in board["metrics"].values() if metric["ranked"]]
    most = max((row["n"] for metric in ranked for row in metric["rows"].values()), default=0)
    over = [metric["n"] for metric in ranked if metric["n"]] or ([most] if most else [])
    return min([scored, *over])


def check_groups(groups: Mapping[str, tuple[str, ...]], profile: Profile) -> None:
    """ConfigError for a group that names no metric, one twice (it would count double), or one that is not computed."""
    asked = sorted(spec.name for spec in profile.metrics)
    for group, names in groups.items():
        if not names or len(set(names)) < len(names):
            twice = next((name for name in names if names.count(name) > 1), "no metric")
            raise ConfigError(f"--group {group} names {twice}{' twice' * bool(names)}")
    for name in (name for names in groups.values() for name in names):
        if name not in asked:
            raise ConfigError(f"--group names {name}, which is not among the metrics: {suggest(name, asked)}")


def _needs_absent(names: tuple[str, ...], not_computed: dict[str, str], suite: Suite) -> bool:
    """Whether a whole group is out of the question here: all of it compares with references that are not there."""
    return not suite.gt and all(name in not_computed and "reference" in not_computed[name] for name in names)


def _cost(about: MethodFile) -> RunCost:
    """What method.json says of the run: seconds an image, peak memory, commit."""
    cost: RunCost = {}
    if "seconds_per_image" in about:
        cost["seconds_per_image"] = about["seconds_per_image"]
    if "peak_gpu_mb" in about:
        cost["peak_gpu_mb"] = about["peak_gpu_mb"]
    if "commit" in about:
        cost["commit"] = about["commit"]
    if "settings" in about:
        cost["settings"] = about["settings"]
    return cost


def _footnotes(suite: Suite, specs: list[MetricSpec], ids: tuple[str, ...], options: Options) -> list[str]:
    names, scored = {spec.name for spec in specs}, len(ids)
    lines = []
    if names & {"clipiqa", "clipiqa+"}:
        lines.append(CLIP_NOTE + ".")
    if "fid" in names and scored < SMALL_FID_SET:
        lines.append(
            f"FID over {scored} images is biased upwards and not comparable with FID over another number of images "
            f"(fewer than the {SMALL_FID_SET} features)."
        )
    if options.limit:
        lines.append(f"A sample of {scored} images (--limit): for a first look, not for a claim.")
    if options.ids is not None:
        lines.append(f"Over the {scored} ids of --ids: {ids_digest(options.ids)} in the signature.")
    elif suite.name == AD_HOC and not suite.gt and not suite.lq:
        lines.append("The ids are those that the outputs have: --gt, --inputs or --ids names what no method has.")
    if not suite.pinned:
        what = "folders" if suite.name == "ad-hoc" else f"{suite.name} is not prepared, so its images"
        lines.append(f"Unpinned: {what} were not checked against hashes.")
    if suite.published and not suite.same_protocol:
        lines.append("Published numbers are under another protocol: not comparable.")
    return lines


def _ranks(metrics: dict[str, MetricTable]) -> dict[str, dict[str, int]]:
    ranked = {name: table["rows"] for name, table in metrics.items() if table["ranked"]}
    return {name: {method: row["rank"] for method, row in rows.items() if row["rank"]} for name, rows in ranked.items()}


def _means(metrics: dict[str, MetricTable]) -> dict[str, dict[str, float | None]]:
    return {name: {method: row["mean"] for method, row in table["rows"].items()} for name, table in metrics.items()}


def _published(suite: Suite, metrics: dict[str, MetricTable]) -> list[ColouredRow]:
    rows = published.published_rows(suite, list(metrics))
    return [{**row, "colours": published.colours(row, suite, metrics)} for row in rows]


def ids_digest(ids: tuple[str, ...]) -> str:
    """Eight digits that stand for a set of ids."""
    return hashlib.sha256("".join(f"{id_}\n" for id_ in sorted(ids)).encode()).hexdigest()[:8]


def signature(
    suite: Suite, pin: str, specs: list[MetricSpec], scored: int, total: int, device: str, env: str,
    named: tuple[str, ...] | None = None,
) -> str:  # fmt: skip
    """One line to quote beside the numbers: suite, images, the ids that were named, `pin` (what the images are), each
    metric's making, environment."""
    n = str(scored) if scored == total else f"{scored}/{total}"
    scale = [f"x{suite.scale}"] if suite.scale else []
    ids = [f"ids:{ids_digest(named)}"] if named is not None else []
    return "|".join(
        [suite.label(), f"n:{n}", *ids, *scale, pin, *(spec.signature(device) for spec in specs), f"env:{env}"]
    )
