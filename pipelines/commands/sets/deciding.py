"""Commands of `lucidflux-data` that decide about scored candidates and pack what is kept: select, pack. Heavy imports
are inside, so that --help answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lucidflux_data.selection.options import cut_settings, select_settings
from pipelines.commands.options import (
    OUT,
    Address,
    Balance,
    Base,
    Carry,
    ConfigChanges,
    ConfigFile,
    DryRun,
    Embedding,
    ExecutorKind,
    ExecutorName,
    ExecutorOptions,
    Forbid,
    ForbidMissing,
    Iqa,
    Join,
    Json,
    MinGoodTiles,
    MinSide,
    NearDuplicates,
    NumCpus,
    NumGpus,
    OptOut,
    Quota,
    RunFolder,
    SemanticDuplicates,
    Set,
    TopFraction,
    TopK,
    Wait,
    Where,
    WhereTile,
    kind_settings,
    settle,
    writing,
)
from pipelines.commands.telling import again, tell, tell_packed, tell_selection

if TYPE_CHECKING:
    from lucidflux_data.selection.config import FilterConfig
    from lucidflux_data.storage.folder import Folder

app = typer.Typer()
NONE = "none"  # of --base: adds to no set any more


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
    base: Base = None,
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
    where_tile: WhereTile = None,
    min_good_tiles: MinGoodTiles = None,
    semantic_duplicates: SemanticDuplicates = None,
    embedding: Embedding = None,
    quota: Quota = None,
    balance: Balance = None,
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
    settings += select_settings(forbid, join, where, carry, opt_out, near_duplicates, forbid_missing, where_tile,
                                min_good_tiles)  # fmt: skip
    settings += kind_settings(semantic_duplicates, embedding, quota, balance)
    if len(run) > 1 and out is None:
        from lucidflux_data.errors import ConfigError

        raise ConfigError("a selection from several runs needs a run folder of its own: give --out")
    settle(*run, *([base] if base and base != NONE else []))
    where_ = ExecutorOptions(executor, num_cpus, num_gpus, address)
    with writing(out or run[0], wait, new=out is not None, dry_run=dry_run):
        same = again(ctx, dry_run=None) if dry_run else None
        request = SelectRequest(run, out, include, base, ConfigChanges(config, settings))
        _run_select(request, where_, same, json_)


@dataclass(frozen=True)
class SelectRequest:
    """What `select` was given."""

    runs: list[str]
    out: str | None
    include: list[str] | None
    base: str | None
    changes: ConfigChanges


def _run_select(request: SelectRequest, where: ExecutorOptions, same: str | None, json_: bool) -> None:
    """`same`: of a dry run, the command that is none."""
    from lucidflux_data.measures.firewall import measure_in_force
    from lucidflux_data.selection.config import FilterConfig, make_config
    from lucidflux_data.selection.decision import combine
    from lucidflux_data.selection.run import parts, read_run
    from lucidflux_data.storage.folder import Folder, configure
    from pipelines.commands.filter import check_metric
    from pipelines.execution.progress import Progress
    from pipelines.filter import job

    run, changes, progress = request.runs, request.changes, Progress(quiet=json_)
    folder, drawn_from = Folder(request.out or run[0]), [Folder(one) for one in run]
    before = read_run(folder if folder.exists("run.json") else drawn_from[0])
    base = FilterConfig.model_validate(before["config"])
    resolved = make_config(file=changes.file, settings=changes.settings, base=base)
    configure(resolved.storage.model_dump())
    check_metric(resolved.iqa.metric)
    if same is not None:
        leaks = measure_in_force(before, resolved.select.forbid)
        shown = job.preview([part for one in drawn_from for part in parts(one)], resolved, leaks)
        tell_selection({**shown, **_preview_base(request.base)}, base, resolved, [(same, "in earnest")], json_)
        return
    if [folder.url] != [one.url for one in drawn_from]:
        combine(folder, drawn_from, resolved, before["preset"])
    _set_base(folder, request.base, resolved)
    with where.open() as started:
        if request.include:
            job.include(folder, request.include, resolved, started, progress)
        counts = job.select(folder, resolved, started, progress)
    outcome = {"run": str(folder), **counts, "next": f"lucidflux-data pack {quote(str(folder))}"}
    also = (f"lucidflux-data explain {quote(str(folder))} NAME", "why an image is, or is not, in the set")
    tell_selection(outcome, base, resolved, [also], json_)


def _set_base(folder: Folder, base: str | None, config: FilterConfig) -> None:
    """The set that the run adds to from now on; what it was made with otherwise is said."""
    from lucidflux_data.growth.part import drop_base, take_base
    from pipelines.execution.progress import warn

    if base == NONE:
        drop_base(folder)
    elif base is not None:
        for sentence in take_base(folder, base, config)["differs"]:
            warn(sentence)


def _preview_base(base: str | None) -> dict[str, int]:
    from lucidflux_data.growth.published import open_published

    if base is None or base == NONE:
        return {}
    published = open_published(base)
    return {"in_base": published.manifest["samples"], "shards_of_the_base": len(published.manifest["shards"])}


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
