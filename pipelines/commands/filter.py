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
    MinSide,
    NearDuplicates,
    NumCpus,
    NumGpus,
    OptOut,
    Out,
    Preset,
    RunFolder,
    Set,
    Sources,
    TopFraction,
    TopK,
    Wait,
    Where,
    allow_setting,
    settle,
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
    tell_selection,
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
    settings += select_settings(forbid, join, where, carry, opt_out, near_duplicates, forbid_missing)
    settings += allow_setting(allow_uris)
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
    scorer: Annotated[
        str | None, typer.Option(metavar="PKG.MOD:FUNCTION", help="Yours: a list of images in, a dict of columns out.")
    ] = None,
    preset: Preset = "lucidflux",
    config: ConfigFile = None,
    set_: Set = None,
    iqa: Iqa = None,
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
        settings = cut_settings(set_, iqa, None, None, None) + allow_setting(allow_uris)
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
    _check_metric(config.iqa.metric)
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
    from lucidflux_data.config import changes_between
    from lucidflux_data.selection.config import label, make_config

    config = request.config
    changed = changes_between(make_config(request.preset), config)
    outcome = {"label": label(request.preset, config), **listed}
    if request.json_:
        rules = {"rules": rules_in_force(config), "changed": changed}
        tell_json(outcome | rules | {"config": config.model_dump()})
        return
    tell(outcome, False)
    say_rules(config, changed, f"preset {request.preset}")
    guide(then=[(request.again, "in earnest")])


def _check_metric(metric: str) -> None:
    """A metric that cannot run is found before hours of measuring, not after."""
    if metric != "none":
        from lucidflux_data.iqa.metrics import load_metric

        load_metric(metric)


@app.command("select")
def select_command(
    ctx: typer.Context,
    run: Annotated[list[str], typer.Argument(metavar="RUN...", help="One run folder, or several to select from.")],
    out: Annotated[str | None, typer.Option(*OUT, metavar="RUN", help="Where the selection of several goes.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN|SOURCE|LIST.txt", help="Kept beside the rules: of a run, a source, or a list of keys."
        ),
    ] = None,
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
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.ray,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Decide again under other rules; only scores that are not there yet are computed."""
    settings = cut_settings(set_, iqa, top_fraction, top_k, min_side)
    settings += select_settings(forbid, join, where, carry, opt_out, near_duplicates, forbid_missing)
    if len(run) > 1 and out is None:
        from lucidflux_data.errors import ConfigError

        raise ConfigError("a selection from several runs needs a run folder of its own: give --out")
    settle(*run)
    where_ = ExecutorOptions(executor, num_cpus, num_gpus, address)
    with writing(out or run[0], wait, new=out is not None, dry_run=dry_run):
        same = again(ctx, dry_run=None) if dry_run else None
        _run_select(run, out, include, ConfigChanges(config, settings), where_, same, json_)


def _run_select(
    run: list[str],
    out: str | None,
    include: list[str] | None,
    changes: ConfigChanges,
    where: ExecutorOptions,
    same: str | None,
    json_: bool,
) -> None:
    """`same`: of a dry run, the command that is none."""
    from lucidflux_data.measures.firewall import measure_in_force
    from lucidflux_data.selection.config import FilterConfig, make_config
    from lucidflux_data.selection.decision import combine
    from lucidflux_data.selection.run import parts, read_run
    from lucidflux_data.storage.folder import Folder, configure
    from pipelines.execution.progress import Progress
    from pipelines.filter import job

    folder, drawn_from, progress = Folder(out or run[0]), [Folder(one) for one in run], Progress(quiet=json_)
    before = read_run(folder if folder.exists("run.json") else drawn_from[0])
    base = FilterConfig.model_validate(before["config"])
    resolved = make_config(file=changes.file, settings=changes.settings, base=base)
    configure(resolved.storage.model_dump())
    _check_metric(resolved.iqa.metric)
    if same is not None:
        leaks = measure_in_force(before, resolved.select.forbid)
        shown = job.preview([part for one in drawn_from for part in parts(one)], resolved, leaks)
        tell_selection({**shown}, base, resolved, [(same, "in earnest")], json_)
        return
    if [folder.url] != [one.url for one in drawn_from]:
        combine(folder, drawn_from, resolved, before["preset"])
    with where.open() as started:
        if include:
            job.include(folder, include, resolved, started, progress)
        counts = job.select(folder, resolved, started, progress)
    outcome = {"run": str(folder), **counts, "next": f"lucidflux-data pack {quote(str(folder))}"}
    also = (f"lucidflux-data explain {quote(str(folder))} NAME", "why an image is, or is not, in the set")
    tell_selection(outcome, base, resolved, [also], json_)


@app.command("pack")
def pack_command(
    ctx: typer.Context,
    run: RunFolder,
    set_: Set = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Re-encode, losslessly, flagged images.")] = False,
    strip: Annotated[
        str | None,
        typer.Option(metavar="gps,author", help="Only what makes the pixels goes along (gps: copyright too)."),
    ] = None,
    strip_unsupported: Annotated[
        str | None, typer.Option(metavar="keep|drop", help="Images of formats that --strip does not look into.")
    ] = None,
    num_cpus: NumCpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.ray,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write the shards of the ledger, the manifest and the report."""
    settings = [*(set_ or []), *(["shards.normalize=true"] if normalize else [])]
    settings += [f"shards.strip={strip}"] if strip else []
    settings += [f"shards.strip_unsupported={strip_unsupported}"] if strip_unsupported else []
    settle(run)
    with writing(run, wait, dry_run=dry_run):
        where = ExecutorOptions(executor, num_cpus, 0, address)
        _run_pack(run, settings, where, again(ctx, dry_run=None) if dry_run else None, json_)


def _run_pack(run: str, settings: list[str], where: ExecutorOptions, same: str | None, json_: bool) -> None:
    """`same`: of a dry run, the command that is none."""
    from lucidflux_data.selection.config import FilterConfig, make_config
    from lucidflux_data.selection.run import read_run
    from lucidflux_data.storage.folder import Folder, configure
    from pipelines.execution.progress import Progress
    from pipelines.filter import job
    from pipelines.filter.pack import assign_shards, check_strip

    folder, progress = Folder(run), Progress(quiet=json_)
    config = make_config(settings=settings, base=FilterConfig.model_validate(read_run(folder)["config"]))
    configure(config.storage.model_dump())
    check_strip(folder, config.shards)
    if same is not None:
        shards = assign_shards(folder, config.shards)
        rows = [row for shard in shards for row in shard.rows]
        counts = {"shards": len(shards), "samples": len(rows), "image_bytes": sum(row["bytes"] for row in rows)}
        tell(counts, json_, then=[(same, "in earnest")])
        return
    with where.open() as started:
        job.pack(folder, config, started, progress)
    tell_packed(folder, job.summary(folder), json_)
