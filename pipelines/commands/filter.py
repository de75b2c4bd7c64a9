"""The commands of `lucidflux-data`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidflux_data.selection.options import cut_settings, select_settings
from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    Carry,
    ConfigChanges,
    ConfigFile,
    DryRun,
    ExecutorKind,
    ExecutorName,
    ExecutorOptions,
    Forbid,
    ForbidMissing,
    Iqa,
    Join,
    Json,
    Limit,
    MaxFailed,
    MinGoodTiles,
    MinSide,
    NearDuplicates,
    NumCpus,
    NumGpus,
    OptOut,
    Out,
    Preset,
    Scorer,
    Set,
    Sources,
    Tiles,
    TopFraction,
    TopK,
    Wait,
    Where,
    WhereTile,
    allow_setting,
    tile_setting,
    writing,
)
from pipelines.commands.telling import (
    again,
    guide,
    rules_in_force,
    say_rules,
    tell,
    tell_json,
    tell_packed,
)
from pipelines.commands.terminal import HELP, SpellingGroup
from pipelines.execution.failures import check_failed

if TYPE_CHECKING:
    from lucidflux_data.selection.config import FilterConfig

app = typer.Typer(
    name="lucidflux-data",
    cls=SpellingGroup,
    context_settings=HELP,
    no_args_is_help=True,
    help="The data engine: from candidates to clean shards.",
)


@app.command("filter")
def filter_command(
    ctx: typer.Context,
    source: Sources,
    out: Out,
    preset: Preset = "lucidflux",
    config: ConfigFile = None,
    set_: Set = None,
    iqa: Iqa = None,
    top_fraction: TopFraction = None,
    top_k: TopK = None,
    min_side: MinSide = None,
    forbid: Forbid = None,
    forbid_missing: ForbidMissing = None,
    join: Join = None,
    where: Where = None,
    carry: Carry = None,
    opt_out: OptOut = None,
    near_duplicates: NearDuplicates = None,
    tiles: Tiles = None,
    where_tile: WhereTile = None,
    min_good_tiles: MinGoodTiles = None,
    allow_uris: AllowUris = None,
    limit: Limit = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.ray,
    max_failed: MaxFailed = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Score, select and pack: HQ shards, a ledger of every decision, and a report."""
    from lucidflux_data.selection.config import make_config

    settings = cut_settings(set_, iqa, top_fraction, top_k, min_side)
    settings += select_settings(forbid, join, where, carry, opt_out, near_duplicates, forbid_missing, where_tile,
                                min_good_tiles)  # fmt: skip
    settings += allow_setting(allow_uris) + tile_setting(tiles)
    resolved = make_config(preset, config, settings)
    same = again(ctx, dry_run=None)
    request = FilterRequest(out, source, resolved, preset, limit, wait, max_failed, dry_run, json_, same)
    _run_job(request, ("score", "select", "pack"), ExecutorOptions(executor, num_cpus, num_gpus, address))


@app.command("score")
def score_command(
    ctx: typer.Context,
    source: Annotated[
        list[str], typer.Argument(metavar="SOURCE...|RUN", help="As for filter; or a run, to add to it.")
    ],
    out: Annotated[str | None, typer.Option(*OUT, metavar="RUN", help="The run folder of these sources.")] = None,
    scorer: Scorer = None,
    preset: Preset = "lucidflux",
    config: ConfigFile = None,
    set_: Set = None,
    iqa: Iqa = None,
    tiles: Tiles = None,
    allow_uris: AllowUris = None,
    limit: Limit = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.ray,
    max_failed: MaxFailed = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Measure every candidate; decide later with `select`."""
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.selection.config import make_config

    where = ExecutorOptions(executor, num_cpus, num_gpus, address)
    if out is not None:
        settings = cut_settings(set_, iqa, None, None, None) + allow_setting(allow_uris) + tile_setting(tiles)
        resolved = make_config(preset, config, settings)
        same = again(ctx, dry_run=None)
        request = FilterRequest(out, source, resolved, preset, limit, wait, max_failed, dry_run, json_, same)
        _run_job(request, ("score",), where)
    elif scorer is None or len(source) != 1:
        raise ConfigError("give --out RUN for sources, or one RUN and --scorer to add scores to it")
    if scorer is not None:
        from pipelines.commands.runs import add_scores

        with writing(out or source[0], wait):
            add_scores(out or source[0], scorer, ConfigChanges(config, list(set_ or [])), where, json_)


@dataclass(frozen=True)
class FilterRequest:
    """What `filter` and `score` were given, with the config resolved."""

    out: str
    sources: list[str]
    config: FilterConfig
    preset: str
    limit: int | None
    wait: float  # seconds, for a folder that is in use
    max_failed: float | None
    dry_run: bool
    json_: bool
    again: str  # the command without --dry-run


def _run_job(request: FilterRequest, steps: tuple[str, ...], where: ExecutorOptions) -> None:
    from lucidflux_data.audit.decoders import check_decoder
    from lucidflux_data.storage.folder import Folder, absolute_url, configure
    from pipelines.execution.preflight import preflight
    from pipelines.execution.progress import Progress
    from pipelines.filter import job
    from pipelines.filter.forbidden import check_suites
    from pipelines.filter.score import count_failed

    config, json_ = request.config, request.json_
    configure(config.storage.model_dump())
    folder, progress = Folder(request.out), Progress(quiet=json_)
    check_metric(config.iqa.metric)
    urls = [absolute_url(item) for item in request.sources]
    if request.dry_run:
        _tell_plan(request, job.preview_listing(urls, request.limit, progress))
        return
    with writing(request.out, request.wait, new=True):
        if "select" in steps:
            check_suites(folder, config.select)
        job.list_into(folder, urls, config, request.preset, request.limit, steps, progress)
        check_decoder(folder)
        with where.open() as executor:
            progress.say(executor.description)
            preflight(executor, urls, folder, config.iqa.metric, progress)
            job.score(folder, config, executor, progress)
            if "select" in steps:
                job.select(folder, config, executor, progress)
                job.pack(folder, config, executor, progress)
    if "select" in steps:
        tell_packed(folder, job.summary(folder), json_)
    else:
        tell({"run": str(folder), "next": f"lucidflux-data select {quote(str(folder))}"}, json_)
    check_failed(*count_failed(folder), request.max_failed, "of the candidates failed")


def _tell_plan(request: FilterRequest, listed: dict[str, Any]) -> None:
    """Of a dry run: what was listed, and the rules in force beside those of the preset."""
    from lucidflux_data.config import changes_between, written_values
    from lucidflux_data.selection.config import label, make_config

    config = request.config
    changed = changes_between(make_config(request.preset), config)
    outcome = {"label": label(request.preset, config), **listed}
    if request.json_:
        rules = {"rules": rules_in_force(config), "changed": changed}
        tell_json(outcome | rules | {"config": written_values(config)})
        return
    tell(outcome, False)
    say_rules(config, changed, f"preset {request.preset}")
    guide(then=[(request.again, "in earnest")])


def check_metric(metric: str) -> None:
    """A metric that cannot run is found before hours of measuring, not after."""
    if metric != "none":
        from lucidflux_data.iqa.metrics import load_metric

        load_metric(metric)
