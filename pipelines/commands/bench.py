"""`lucidflux bench`: `eval` is the verb that is meant when none is given; `--outputs` takes any number of folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lucidflux_data.escapes import show
from pipelines.commands.options import (
    OUT,
    Address,
    DryRun,
    ExecutorName,
    Json,
    Limit,
    MaxFailed,
    NumCpus,
    NumGpus,
    Set,
    SuitesDir,
    Wait,
    check_finite,
    writing,
)
from pipelines.commands.telling import again, guide, tell, tell_json
from pipelines.execution.failures import check_failed

SuiteName = Annotated[str | None, typer.Option("--suite", metavar="NAME", help="A suite by name; see `bench suites`.")]
ProfileName = Annotated[
    str | None, typer.Option(metavar="NAME", help="lucidflux-paper, seesr-paper, perceptual-2026 or offline.")
]
Outputs = Annotated[
    list[str], typer.Option("--outputs", metavar="DIR...", help="Methods: folders of images, or NAME=DIR.")
]
Inputs = Annotated[Path | None, typer.Option(metavar="DIR", help="The low-quality inputs.")]
References = Annotated[Path | None, typer.Option(metavar="DIR", help="The references.")]
Metrics = Annotated[str | None, typer.Option(metavar="A,B", help="Metrics by name, instead of a profile.")]
Groups = Annotated[list[str] | None, typer.Option(metavar="NAME=A,B", help="An overall rank over these metrics.")]
Results = Annotated[Path | None, typer.Option(*OUT, metavar="RESULTS", help="bench-results/SUITE-PROFILE by default.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Where no method has every image: rank if all have the same.")
]
IdsFile = Annotated[Path | None, typer.Option("--ids", metavar="FILE", help="Rank over these ids, one a line.")]
IdPattern = Annotated[
    str | None, typer.Option(metavar="REGEX", help="Which part of a name is the id, as '(?P<id>[0-9]+)_out'.")
]
PromptsFrom = Annotated[
    str | None, typer.Option(help="none, fixed:TEXT, file (the suite's), or a folder of ID.txt and prompts.toml.")
]
VoteFiles = Annotated[
    list[Path] | None, typer.Option("--votes", metavar="FILE...", help="What raters saved from `bench vote`.")
]
MinImages = Annotated[int, typer.Option(min=0, help="Unranked methods with fewer images are not shown.")]
Test = Annotated[str, typer.Option(help="permutation or wilcoxon.")]
Resamples = Annotated[int, typer.Option(min=100, help="Of the bootstrap and the permutation test.")]
Cache = Annotated[Path | None, typer.Option(help="Where scores are kept; the user's cache by default.")]
Executor = Annotated[ExecutorName | None, typer.Option(help="ray with --address or --num-gpus, else local.")]


class BenchGroup(TyperGroup):
    """Puts `eval` before options that come without a verb, and lets --outputs take several folders."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h"):
            args = ["eval", *args]
        return super().parse_args(ctx, _spread(args))


def _spread(args: list[str]) -> list[str]:
    """`--outputs A B --json` as `--outputs A --outputs B --json`; --votes likewise."""
    spread: list[str] = []
    taking = ""
    for arg in args:
        if arg.startswith("-"):
            taking = arg if arg in ("--outputs", "--votes") else ""
        elif taking and spread[-1] != taking:
            spread.append(taking)
        spread.append(arg)
    return spread


app = typer.Typer(
    cls=BenchGroup,
    no_args_is_help=True,
    add_completion=False,
    help="A leaderboard one can trust. Without a verb, `eval` is meant; its options: `lucidflux bench eval --help`.",
)


@app.command("eval")
def eval_command(
    ctx: typer.Context,
    outputs: Outputs,
    suite: SuiteName = None,
    inputs: Inputs = None,
    gt: References = None,
    profile: ProfileName = None,
    metrics: Metrics = None,
    group: Groups = None,
    out: Results = None,
    ids: IdsFile = None,
    id_pattern: IdPattern = None,
    allow_partial: AllowPartial = False,
    min_images: MinImages = 0,
    votes: VoteFiles = None,
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
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Score folders of images, rank them, and write tables and a page."""
    from benchmarks import evaluation
    from benchmarks.methods import submission
    from benchmarks.report.results import Options, check_groups
    from benchmarks.suites import suite as suites
    from benchmarks.suites.ids import read_pattern
    from lucidflux_data.storage.folder import Folder
    from pipelines.bench import evaluate
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress

    chosen, named, pattern = _profile(profile, metrics, test), _named_ids(ids, limit), read_pattern(id_pattern)
    device = "cuda" if num_gpus else "cpu"
    asked = _groups(group or [])
    options = Options(allow_partial, named, min_images, test, resamples, limit, device, asked, tuple(votes or ()))
    check_groups(options.groups, chosen)
    methods = submission.find_methods(outputs, pattern)
    places = evaluation.Places(inputs, gt, pattern, allow_partial, named)
    over = evaluation.choose_suite(suite, suites.suites_folder(suites_dir), methods, places)
    place, scores = out or Path("bench-results", f"{over.name}-{chosen.name}"), Folder(cache or score_cache())
    if dry_run:
        planned = evaluate.estimate_work(scores, over, methods, chosen, options)
        tell(planned, json_, then=[(again(ctx, dry_run=None), "in earnest")])
        return
    kind = executor or ("ray" if address or num_gpus or os.environ.get("RAY_ADDRESS") else "local")
    progress = Progress(quiet=json_)
    with writing(str(place), wait, new=True), open_executor(kind, num_cpus, num_gpus or 0, address) as started:
        progress.say(started.description)
        board = evaluate.evaluate_outputs(Folder(place), scores, over, methods, chosen, started, progress, options)
    _tell_board(board, place, json_)
    check_failed(*evaluate.count_missing(board), max_failed, "of the scores are missing")


def _tell_board(board: Any, place: Path, json_: bool) -> None:
    from benchmarks.report import tables
    from benchmarks.suites.suite import suite_names

    if json_:
        tell_json(board)
    else:
        tables.print_terminal(board)
        typer.echo(show(f"results: {place}"))
        pair = [quote(f"{place}:{name}") for name in tables.order(board)[:2]]
        pair = pair if len(pair) == 2 else [quote(str(place)), "OTHER"]
        then = [(f"lucidflux bench compare {' '.join(pair)}", "paired differences")]
        suite = board["suite"].partition(":")[0]
        if suite in suite_names():
            then.append((f"lucidflux bench published --suite {suite}", "what papers printed"))
        guide([str(place / "report.html")], then)


def _named_ids(file: Path | None, limit: int | None) -> tuple[str, ...] | None:
    from benchmarks.suites.ids import read_ids
    from lucidflux_data.errors import ConfigError

    if file is None:
        return None
    if limit is not None:
        raise ConfigError("--ids and --limit exclude each other")
    return read_ids(file)


def _profile(name: str | None, metrics: str | None, test: str) -> Any:
    from benchmarks.leaderboard.statistics import TESTS
    from benchmarks.metrics import profiles
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
    from lucidflux_data.storage.cache import own_cache

    return own_cache() / "scores"


def _groups(given: list[str]) -> dict[str, tuple[str, ...]]:
    from lucidflux_data.errors import ConfigError

    groups = {}
    for item in given:
        name, equals, names = item.partition("=")
        metrics = tuple(part.strip() for part in names.split(",") if part.strip())
        if not equals or not name or not metrics:
            raise ConfigError(f"--group takes NAME=metric,metric, not {item!r}")
        if name in groups:
            raise ConfigError(f"two groups are called {name}")
        groups[name] = metrics
    return groups


@app.command("infer")
def infer_command(
    ctx: typer.Context,
    method: Annotated[
        str | None,
        typer.Argument(metavar="METHOD", help="An adapter, or bicubic, lanczos, realesrgan, proxy, lucidflux."),
    ] = None,
    suite: SuiteName = None,
    inputs: Inputs = None,
    out: Annotated[Path | None, typer.Option(*OUT, metavar="DIR", help="bench-outputs/SUITE by default.")] = None,
    scale: Annotated[int | None, typer.Option(min=1, help="Of --inputs; a suite has its own.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Several make seed-N folders.")] = None,
    set_: Set = None,
    prompts: PromptsFrom = None,
    repo: Annotated[Path | None, typer.Option(help="Checkout of the method's repository.")] = None,
    python: Annotated[str, typer.Option(help="Interpreter of the method's environment.")] = "python",
    timeout: Annotated[
        float | None, typer.Option(min=0, callback=check_finite, help="Seconds after which the program is stopped.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="FILE.pth in place of METHOD; flux-dev or tiny for lucidflux and proxy.")
    ] = None,
    extra_archs: Annotated[bool, typer.Option("--extra-archs", help="FILE may be of spandrel_extra_arches.")] = False,
    weights: Annotated[str | None, typer.Option(help="A folder made by `lucidflux weights convert`.")] = None,
    trained: Annotated[str | None, typer.Option(metavar="FILE", help="Trained parts over it.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    suites_dir: SuitesDir = None,
    limit: Limit = None,
    max_failed: MaxFailed = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Make a method's outputs on a suite: stage, run in its environment, collect, record time and memory."""
    from benchmarks.suites import suite as suites
    from benchmarks.suites.ids import sample_ids
    from pipelines.bench import infer
    from pipelines.bench.making import Place
    from pipelines.execution.progress import Progress

    name, model = infer.choose_method(method, model)
    place = Place(repo, python, timeout, model, weights, trained, extra_archs, device, wait)
    infer.check_method(name, set_ or [], seed or [])
    if inputs is not None and scale is None:
        scale = infer.own_scale(name, place)
    over, carried, images, factor = infer.find_inputs(suite, inputs, scale, suites.suites_folder(suites_dir))
    images = {id_: images[id_] for id_ in sample_ids(tuple(images), limit)}
    place = replace(place, prompts=infer.choose_prompts(name, prompts, carried, images))
    if dry_run:
        planned = infer.estimate_work(name, len(images), factor, set_ or [], place)
        tell(planned, json_, then=[(again(ctx, dry_run=None), "in earnest")])
        return
    infer.check_inputs(images)
    target = (out or Path("bench-outputs") / over).absolute()
    summary = infer.infer_method(name, images, target, factor, seed or [], set_ or [], place, Progress(json_))
    counts = {"missing": len(summary["missing"]), "wrong_size": len(summary["wrong_size"])}
    counts["remarks"] = len(summary["remarks"])
    named = f"--suite {suite}" if suite else "--metrics niqe"
    rank = (f"lucidflux bench --outputs {quote(str(target))} {named}", "ranks the methods in there")
    tell(summary if json_ else {**summary, **counts}, json_, [summary["folder"]], [rank])
    check_failed(counts["missing"], len(images) * max(1, len(seed or [])), max_failed, "of the images are missing")


@app.command("suites")
def suites_command(suites_dir: SuitesDir = None, json_: Json = False) -> None:
    """List the suites, and which are prepared here."""
    from benchmarks.suites import suite as suites

    folder = suites.suites_folder(suites_dir)
    rows = []
    for name in suites.suite_names():
        suite = suites.load_suite(name, folder)
        sizes = [f"{size[0]}x{size[1]}" if size else "any" for size in (suite.input_size, suite.output_size)]
        row: dict[str, object] = {"name": name, "version": suite.version, "images": suite.count, "scale": suite.scale}
        row |= {"input": sizes[0], "output": sizes[1], "gt": suite.has_gt, "prepared": suite.pinned}
        rows.append(row | {"about": suite.about, "licence": suite.licence, "get": suite.get})
    if json_:
        tell_json({"rows": rows})
        return
    for row in rows:
        mark = "prepared" if row["prepared"] else "not prepared"
        gt = "with references" if row["gt"] else "no references"
        size = f"x{row['scale']}  {row['output']:>9}"
        typer.echo(show(f"{row['name']:16} {row['images']:>5} images  {size}  {gt}  {mark}"))
        typer.echo(show(f"{'':16} {row['about']}\n{'':16} get it: {row['get']}", lines=True))
    guide(then=[("lucidflux bench prepare NAME --from ARCHIVE", "puts a suite in place"),
                ("lucidflux bench --suite NAME --outputs DIR", "ranks folders of results on it")])  # fmt: skip


@app.command("prepare")
def prepare_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The suite.")],
    from_: Annotated[Path | None, typer.Option("--from", metavar="ARCHIVE", help="Folder, zip or tar.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A folder of ID.txt and prompts.toml.")] = None,
    suites_dir: SuitesDir = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Check a suite's images, lay them out and fingerprint them."""
    from benchmarks.suites import prepare
    from benchmarks.suites import suite as suites

    folder = suites.suites_folder(suites_dir)
    made = prepare.prepare(suites.load_suite(name, None), from_, folder / name, prompts, wait)
    where = f" --suites-dir {quote(str(suites_dir))}" if suites_dir else ""
    tell(made, json_, [str(folder / name)], [
        (f"lucidflux bench infer bicubic --suite {name}{where}", "a first method"),
        (f"lucidflux bench --suite {name} --outputs DIR{where}", "ranks folders of results"),
    ])  # fmt: skip


@app.command("compare")
def compare_command(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="RESULTS, or RESULTS:METHOD.")],
    b: Annotated[str, typer.Argument(metavar="B", help="RESULTS, or RESULTS:METHOD.")],
    resamples: Annotated[int, typer.Option(min=100)] = 10_000,
    json_: Json = False,
) -> None:
    """Paired differences of two methods, or of two results folders."""
    from benchmarks.leaderboard import compare
    from benchmarks.report import tables

    found = compare.compare(a, b, resamples)
    if json_:
        tell_json(found)
    else:
        tables.print_comparison(found)
        guide(then=[(f"{again(ctx)} --json", "full numbers")])


@app.command("published")
def published_command(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="A suite by name.")], json_: Json = False
) -> None:
    """The numbers that papers printed for a suite, with their sources."""
    from benchmarks.leaderboard import published
    from benchmarks.report import tables
    from benchmarks.suites import suite as suites

    over = suites.load_suite(suite, None)
    rows = published.published_rows(over)
    if json_:
        tell_json({"suite": suite, "same_protocol": over.same_protocol, "rows": rows})
    else:
        tables.print_published(over, rows, published.tolerances())
        guide(then=[(f"lucidflux bench --suite {over.name} --outputs DIR", "ranks folders of results beside them")])


@app.command("doctor")
def doctor_command(profile: ProfileName = None, json_: Json = False) -> None:
    """Which metrics run here, and what the others lack. Exit 6 where --profile lacks something."""
    from benchmarks.metrics import doctor
    from lucidflux_data.errors import VerificationError

    found = doctor.diagnose(profile)
    if json_:
        tell_json(found)
    else:
        for metric in found["metrics"].values():
            typer.echo(show(f"{metric['status']:8} {metric['sentence']}"))
        typer.echo(show(f"gpus: {', '.join(found['gpus']) or 'none'}"))
        typer.echo(show("\n".join([found["licence"], *doctor.recipe(found)]), lines=True))
        guide(then=[("lucidflux weights download METRIC", "fetches what a metric lacks"),
                    ("lucidflux bench --outputs DIR --metrics niqe", "ranks folders of images")])  # fmt: skip
    lacking = [name for name, metric in found["metrics"].items() if metric["status"] != "ready"]
    if profile and lacking:
        raise VerificationError(f"{len(lacking)} metrics of {profile} cannot run here: {', '.join(lacking)}")
