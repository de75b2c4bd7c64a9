"""`benchmarks.rank`: folders of outputs in, a leaderboard out. Nothing is written but the cache of scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from benchmarks import environment, evaluation
from benchmarks.leaderboard.schema import Board
from benchmarks.leaderboard.statistics import RESAMPLES, TESTS
from benchmarks.methods import submission
from benchmarks.metrics import profiles
from benchmarks.metrics import score as scoring
from benchmarks.metrics.profiles import MetricSpec, Profile
from benchmarks.report import results, tables
from benchmarks.report.notes import notes
from benchmarks.report.results import Evaluated, Options
from benchmarks.suites import suite as suites
from benchmarks.suites.ids import as_text, read_pattern
from lucidflux_data.errors import ConfigError, suggest
from lucidflux_data.page.render import render_fragment
from lucidflux_data.storage.cache import own_cache
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from lucidflux_data.surface.frames import as_frame

AnyPath = str | os.PathLike[str]
Outputs = AnyPath | Iterable[AnyPath] | Mapping[str, AnyPath]


class RankOptions(TypedDict, total=False):
    """What a call may ask for besides the images, with the meaning and the defaults of `lucidflux bench`."""

    suite: str  # by name, in place of gt and inputs
    profile: str  # of metrics, by name
    metrics: str | Iterable[str]  # by name, in place of a profile
    groups: Mapping[str, Iterable[str]]  # name -> metrics of an overall rank
    ids: Iterable[str]  # images that are ranked over
    id_pattern: str  # which part of a name is the id
    allow_partial: bool
    limit: int  # images that are drawn
    test: Literal["permutation", "wilcoxon"]
    resamples: int
    votes: Iterable[AnyPath]  # csv files of raters
    device: str  # cpu or cuda, of learned metrics
    cache: AnyPath  # where scores are kept; the user's cache, as the command's


def rank(
    outputs: Outputs, gt: AnyPath | None = None, inputs: AnyPath | None = None, **options: Unpack[RankOptions]
) -> Ranking:
    """The leaderboard that `lucidflux bench` makes of these folders, scored in this process.

    outputs: a folder of images, or of such folders, or several, or {name: folder}. gt, inputs: the references, and what
    the methods were given. options: see RankOptions. Scores are kept by content, where the command finds them, too.
    Raises ConfigError for a wrong option, InputError for a folder that cannot be used.

    >>> board = rank({"a": "outputs/a", "b": "outputs/b"}, gt="gt", metrics=["psnr", "ssim"])
    >>> sorted(board.methods)
    ['a', 'b']
    """
    known = tuple(RankOptions.__annotations__)
    for name in options:
        if name not in known:
            raise ConfigError(f"rank has no option {name!r}: {suggest(name, known, len(known))}")
    profile = _profile(options)
    pattern = read_pattern(options.get("id_pattern"))
    _check_numbers(options)
    ids = _ids(options)
    partial = options.get("allow_partial", False)
    chosen = Options(partial, ids, 0, options.get("test", "permutation"), options.get("resamples", RESAMPLES),
                     options.get("limit"), options.get("device", "cpu"), _groups(options),
                     tuple(map(Path, options.get("votes", ()))))  # fmt: skip
    methods = submission.find_methods(_folders(outputs), pattern)
    places = evaluation.Places(_path(inputs), _path(gt), pattern, partial, ids)
    over = evaluation.choose_suite(options.get("suite"), suites.suites_folder(), methods, places)
    cache = Folder(options.get("cache") or own_cache() / "scores")

    def score(spec: MetricSpec) -> evaluation.Scores:
        return _score(spec, over, methods, cache, chosen.device)

    return Ranking(evaluation.evaluate(over, methods, profile, chosen, score))


def _score(
    spec: MetricSpec, suite: suites.Suite, methods: list[submission.Method], cache: Folder, device: str
) -> evaluation.Scores:
    """All scores of one metric: from the cache, and what it lacked, one unit after the other."""
    items, place = scoring.make_items(spec, methods, suite), scoring.cache_place(spec, device)
    known = scoring.read_cache(cache, place)
    work, units = (
        scoring.ScoreImages(spec, device),
        list(scoring.missing_units(items, known, scoring.unit_images(spec, items))),
    )
    for name, part in units:
        for file, data in work(name, part):
            cache.publish(file, data)
    return scoring.read_cache(cache, place) if units else known


def _profile(options: RankOptions) -> Profile:
    if "profile" in options and "metrics" in options:
        raise ConfigError("profile and metrics exclude each other")
    if options.get("test", "permutation") not in TESTS:
        raise ConfigError(f"test is one of {', '.join(TESTS)}, not {options['test']}")
    if "metrics" not in options:
        return profiles.load_profile(options.get("profile", "lucidflux-paper"))
    given = options["metrics"]
    names = given.split(",") if isinstance(given, str) else given
    return profiles.profile_of_metrics([name.strip() for name in names if name.strip()])


def _check_numbers(options: RankOptions) -> None:
    least = {"limit": (options.get("limit"), 1), "resamples": (options.get("resamples"), 100)}
    for name, (value, smallest) in least.items():
        if value is not None and (not isinstance(value, int) or value < smallest):
            raise ConfigError(f"{name} is a whole number of at least {smallest}, not {value!r}")


def _ids(options: RankOptions) -> tuple[str, ...] | None:
    """The ids that are named, each once. ConfigError for none, a text in place of a list, or a limit beside them."""
    given = options.get("ids")
    if given is None:
        return None
    if isinstance(given, str) or not (named := tuple(dict.fromkeys(map(as_text, given)))):
        raise ConfigError(f"ids is a list of at least one id, not {given!r}")
    if options.get("limit") is not None:
        raise ConfigError("ids and limit exclude each other")
    return named


def _groups(options: RankOptions) -> dict[str, tuple[str, ...]]:
    return {name: tuple(metrics) for name, metrics in options.get("groups", {}).items()}


def _path(place: AnyPath | None) -> Path | None:
    return None if place is None else Path(place).expanduser()


def _folders(outputs: Outputs) -> list[str]:
    """As `submission.find_methods` takes them."""
    if isinstance(outputs, str | os.PathLike):
        outputs = [outputs]
    if isinstance(outputs, Mapping):
        return [f"{name}={Path(place).expanduser().absolute()}" for name, place in outputs.items()]
    return [os.path.expanduser(place) for place in outputs]


class Ranking:
    """A leaderboard. `board`: the content of leaderboard.json (leaderboard.schema.Board); printed, it is a table."""

    def __init__(self, scored: Evaluated) -> None:
        self._scored = scored
        self.board: Board = results.make_board(scored, environment.capture())

    @property
    def methods(self) -> list[str]:
        """The methods in order of their rank, those that no metric ranks last."""
        return tables.order(self.board)

    def scores(self, kind: Literal["pyarrow", "pandas", "polars"] = "pyarrow") -> Any:
        """A row for every method, seed, id and metric, with its value or the reason why there is none, as a
        pyarrow.Table, or a pandas or polars DataFrame."""
        return as_frame(self._scored.table, kind)

    def save(self, path: AnyPath) -> str:
        """Writes the results folder that `lucidflux bench --out PATH` writes: tables, page, scores. Gives the folder.

        Raises ConfigError where it holds something else, or results of another suite or profile.
        """
        folder = Folder(os.path.expanduser(path))
        with hold(folder, 0.0, new=True):
            results.start(folder, self._scored.suite, self._scored.profile)
            results.write(folder, self._scored)
            folder.sweep()
        return str(folder)

    @cached_property
    def _text(self) -> str:
        return tables.markdown(self.board)

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        below = tables.first_below(self.board)
        template = Path(__file__).parent / "report" / "ranking.html.j2"
        return render_fragment(template, title=f"{self.board['suite']}, {self.board['profile']}",
                               header=tables.header(self.board), body=tables.make_body(self.board), below=below,
                               below_told=tables.BELOW, notes=notes(self.board))  # fmt: skip
