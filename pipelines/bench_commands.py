"""`lucidflux bench`: `eval` is the verb that is meant when none is given; `--outputs` takes any number of folders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.commands import ProfileName, SuiteName, SuitesDir
from benchmarks.commands import app as plain_app
from lucidflux_data.options import Address, DryRun, Json, Limit, MaxFailed, NumCpus, NumGpus

Outputs = Annotated[
    list[str], typer.Option("--outputs", metavar="DIR...", help="Methods: folders of images, or NAME=DIR.")
]
Inputs = Annotated[Path | None, typer.Option(metavar="DIR", help="The low-quality inputs.")]
References = Annotated[Path | None, typer.Option(metavar="DIR", help="The references.")]
Metrics = Annotated[str | None, typer.Option(metavar="A,B", help="Metrics by name, instead of a profile.")]
Groups = Annotated[list[str] | None, typer.Option(metavar="NAME=A,B", help="An overall rank over these metrics.")]
Results = Annotated[Path | None, typer.Option(metavar="RESULTS", help="bench-results/SUITE-PROFILE by default.")]
AllowPartial = Annotated[bool, typer.Option("--allow-partial", help="Rank methods that share a subset.")]
Test = Annotated[str, typer.Option(help="permutation or wilcoxon.")]
Resamples = Annotated[int, typer.Option(min=100, help="Of the bootstrap and the permutation test.")]
Cache = Annotated[Path | None, typer.Option(help="Where scores are kept; the user's cache by default.")]
Executor = Annotated[str | None, typer.Option(help="local processes, or ray; ray where --address is given.")]


class BenchGroup(TyperGroup):
    """Puts `eval` before options that come without a verb, and lets --outputs take several folders."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["eval", *args]
        return super().parse_args(ctx, _spread(args, "--outputs"))


def _spread(args: list[str], option: str) -> list[str]:
    """`--outputs A B --json` as `--outputs A --outputs B --json`."""
    spread: list[str] = []
    taking = False
    for arg in args:
        if arg.startswith("--"):
            taking = arg == option
        elif taking and spread[-1] != option:
            spread.append(option)
        spread.append(arg)
    return spread


app = typer.Typer(
    cls=BenchGroup,
    no_args_is_help=True,
    add_completion=False,
    help="A leaderboard one can trust; `eval` is the default.",
)
for command in plain_app.registered_commands:
    app.registered_commands.append(command)


@app.command("eval")
def eval_command(
    outputs: Outputs,
    suite: SuiteName = None,
    inputs: Inputs = None,
    gt: References = None,
    profile: ProfileName = None,
    metrics: Metrics = None,
    group: Groups = None,
    out: Results = None,
    allow_partial: AllowPartial = False,
    limit: Limit = None,
    test: Test = "permutation",
    resamples: Resamples = 10_000,
    cache: Cache = None,
    suites_dir: SuitesDir = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    executor: Executor = None,
    max_failed: MaxFailed = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Score folders of images, rank them, and write tables and a page."""
    from benchmarks import submission, suites, tables
    from lucidflux_data.storage import Folder
    from pipelines import evaluate
    from pipelines.executor import open_executor
    from pipelines.progress import Progress

    chosen = _profile(profile, metrics, test)
    options: dict[str, Any] = {"allow_partial": allow_partial, "test": test, "resamples": resamples, "limit": limit}
    options |= {"device": "cuda" if num_gpus else "cpu", "groups": _groups(group or [])}
    methods = submission.find_methods(outputs)
    over = evaluate.choose_suite(suite, suites.suites_folder(suites_dir), inputs, gt, methods)
    place = out or Path("bench-results") / f"{over.name}-{chosen.name}"
    scores = Folder(cache or score_cache())
    if dry_run:
        typer.echo(json.dumps(evaluate.plan(scores, over, methods, chosen, options), indent=None if json_ else 1))
        return
    kind = executor or ("ray" if address or os.environ.get("RAY_ADDRESS") else "local")
    progress = Progress(quiet=json_)
    with open_executor(kind, num_cpus, num_gpus or 0, address) as started:
        progress.say(started.description)
        board = evaluate.evaluate_outputs(Folder(place), scores, over, methods, chosen, started, progress, options)
    if json_:
        typer.echo(json.dumps(board))
    else:
        tables.print_terminal(board)
        typer.echo(f"results: {place}")
    evaluate.check_failed(board, max_failed)


def _profile(name: str | None, metrics: str | None, test: str) -> Any:
    from benchmarks import metrics as profiles
    from benchmarks.leaderboard import TESTS
    from lucidflux_data.errors import ConfigError

    if name and metrics is not None:
        raise ConfigError("--profile and --metrics exclude each other")
    if test not in TESTS:
        raise ConfigError(f"--test is one of {', '.join(TESTS)}, not {test}")
    if metrics is None:
        return profiles.load_profile(name or "lucidflux-paper")
    return profiles.profile_of_metrics([part.strip() for part in metrics.split(",") if part.strip()])


def score_cache() -> Path:
    """Scores by content, shared by all runs of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))) / "lucidflux" / "scores"


def _groups(given: list[str]) -> dict[str, tuple[str, ...]]:
    from lucidflux_data.errors import ConfigError

    groups = {}
    for item in given:
        name, equals, names = item.partition("=")
        metrics = tuple(part.strip() for part in names.split(",") if part.strip())
        if not equals or not name or not metrics:
            raise ConfigError(f"--group takes NAME=metric,metric, not {item!r}")
        groups[name] = metrics
    return groups
