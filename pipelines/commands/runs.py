"""Commands of `lucidflux-data` around a set: plan, verify, retry, forget, fingerprint, scorers of one's own."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lucidflux_data.escapes import show
from lucidflux_data.selection.options import cut_settings, select_settings
from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    Base,
    Carry,
    ConfigChanges,
    ConfigFile,
    ExecutorKind,
    ExecutorName,
    ExecutorOptions,
    Forbid,
    ForbidMissing,
    Iqa,
    Join,
    Json,
    Limit,
    MinGoodTiles,
    MinSide,
    NearDuplicates,
    NumCpus,
    OptOut,
    Preset,
    RunFolder,
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
    check_finite,
    settle,
    tile_setting,
    writing,
    writing_file,
)
from pipelines.commands.telling import TRAINS, again, guide, say_table, tell, tell_json

if TYPE_CHECKING:
    from pipelines.filter.estimate import Machines

    pass

app = typer.Typer()


@app.command("plan")
def plan_command(
    ctx: typer.Context,
    source: Sources,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="Cores of the cluster; else of this machine.")] = None,
    num_gpus: Annotated[int, typer.Option(min=0, help="GPUs of the cluster.")] = 0,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
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
    base: Base = None,
    scorer: Scorer = None,
    allow_uris: AllowUris = None,
    limit: Limit = None,
    sample: Annotated[int, typer.Option(min=1, help="Candidates that are measured here.")] = 64,
    candidates: Annotated[int | None, typer.Option(min=1, help="As if there were so many.")] = None,
    gpu_images_per_s: Annotated[
        float | None,
        typer.Option(min=1e-6, callback=check_finite, help="Of the metric on one GPU, measured before."),
    ] = None,
    storage_gbps: Annotated[
        float | None,
        typer.Option(min=1e-6, callback=check_finite, help="What the source gives, in gigabytes a second."),
    ] = None,
    price_cpu_hour: Annotated[float, typer.Option(min=0, callback=check_finite)] = 0.0,
    price_gpu_hour: Annotated[float, typer.Option(min=0, callback=check_finite)] = 0.0,
    out: Annotated[str | None, typer.Option(*OUT, metavar="RUN", help="The run that then tells how it went.")] = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Predict wall time, core and GPU hours, bytes, memory, shards and money of `filter` from a measured sample."""
    from lucidflux_model.embedding.known import from_anywhere
    from pipelines.execution.executor import available_cpus
    from pipelines.filter.estimate import Machines

    settings = cut_settings(set_, iqa, top_fraction, top_k, min_side)
    settings += select_settings(forbid, join, where, carry, opt_out, near_duplicates, forbid_missing, where_tile,
                                min_good_tiles)  # fmt: skip
    settings += allow_setting(allow_uris) + tile_setting(tiles)
    cores = num_cpus or available_cpus()
    machines = Machines(cores, num_gpus, nodes, storage_gbps, price_cpu_hour, price_gpu_hour)
    here = {"num_cpus": None, "num_gpus": None}  # those of the cluster that was asked about
    then = again(ctx, "filter", **here, out=out or "RUN")
    request = PlanRequest(source, machines, sample, candidates, limit, gpu_images_per_s, out, wait, then, base,
                          from_anywhere(scorer) if scorer else None)  # fmt: skip
    _run_plan(request, preset, ConfigChanges(config, settings), json_)


@dataclass(frozen=True)
class PlanRequest:
    """What `plan` was given beside the config."""

    sources: list[str]
    machines: Machines
    sample: int
    candidates: int | None
    limit: int | None
    gpu_images_per_s: float | None
    out: str | None
    wait: float  # seconds, for a folder that is in use
    then: str  # the command that is planned
    base: str | None  # a set that is added to
    scorer: str | None  # that is run over the survivors


def _run_plan(request: PlanRequest, preset: str, changes: ConfigChanges, json_: bool) -> None:
    from dataclasses import replace

    from lucidflux_data.selection.config import make_config
    from lucidflux_data.storage.folder import Folder, absolute_url, configure
    from pipelines.filter import estimate as plan

    config = make_config(preset, changes.file, changes.settings)
    configure(config.storage.model_dump())
    costs, shares, found = plan.probe([absolute_url(item) for item in request.sources], config, request.sample,
                                       request.scorer)  # fmt: skip
    if request.gpu_images_per_s is not None:
        costs = replace(costs, metric_s=1 / request.gpu_images_per_s, gpu=True)
    candidates = min(request.candidates or found, request.limit or sys.maxsize)
    base = plan.cost_of_base(request.base, config) if request.base is not None else None
    prediction = plan.predict(costs, candidates, config, request.machines, base)
    if request.out is not None:
        with writing(request.out, request.wait, new=True):
            Folder(request.out).publish(plan.PLAN_FILE, json.dumps(prediction).encode())
    left_out = plan.not_predicted(config)
    if json_:
        tell_json({"probe": shares, "costs": costs.__dict__, "not_predicted": left_out, **prediction})
        return
    low_high = [[reason, f"{share:.1%}", f"{low:.1%} to {high:.1%} of all, by {costs.images} sampled"]
                for reason, (share, low, high) in shares.items()]  # fmt: skip
    say_table(low_high, right=(1,))
    tell(prediction, False)
    if left_out:
        typer.echo(show(f"not predicted, as if nothing fell to it: {', '.join(left_out)}"))
    guide(then=[(request.then, "its summary compares" if request.out else "in earnest")])


@app.command("verify")
def verify_command(
    run: RunFolder,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild only what is broken.")] = False,
    num_cpus: NumCpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.local,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Check counts, hashes and completeness; exit 6 names what is wrong."""
    from lucidflux_data.pairs.job import is_pairs
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress
    from pipelines.filter.repair import verify_run
    from pipelines.synthesis.verify import verify_pairs

    settle(run)
    with writing(run, wait, dry_run=not repair), open_executor(executor, num_cpus, 0, address) as started:
        check = verify_pairs if is_pairs(Folder(run)) else verify_run
        result = check(Folder(run), deep, repair, started, Progress(quiet=json_))
    following = (f"lucidflux-data synthesize {quote(run)} --out PAIRS", "LQ/HQ pairs of it")
    if not deep:
        following = (f"lucidflux-data verify {quote(run)} --deep", "decodes every image, too")
    elif is_pairs(Folder(run)):
        following = (f"lucidflux train --data {quote(run)} --out RUN --weights WEIGHTS", TRAINS)
    tell(result, json_, then=[following])


@app.command("retry")
def retry_command(
    run: RunFolder,
    status: Annotated[
        list[str] | None, typer.Option(metavar="REASON", help="Which failures; by default those that can pass.")
    ] = None,
    outdated: Annotated[
        bool, typer.Option("--outdated", help="What decoders of an earlier version may have seen otherwise, instead.")
    ] = False,
    num_cpus: NumCpus = None,
    address: Address = None,
    executor: ExecutorKind = ExecutorName.ray,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Measure candidates again that failed for a reason that may be gone."""
    from lucidflux_data.audit.decoders import check_decoder
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress
    from pipelines.filter.repair import measure_outdated, retry

    folder, progress = Folder(run), Progress(quiet=json_)
    if outdated and status:
        raise ConfigError("--outdated and --status exclude each other")
    with writing(run, wait):
        if not outdated:
            check_decoder(folder)
        with open_executor(executor, num_cpus, 0, address) as started:
            if outdated:
                result = measure_outdated(folder, started, progress)
            else:
                result = retry(folder, status or [], started, progress)
    tell({"run": run, **result, "next": f"lucidflux-data select {quote(run)}"}, json_)


@app.command("forget")
def forget_command(
    run: RunFolder,
    image: Annotated[list[str] | None, typer.Argument(metavar="SHA256...", help="sha256 or key.")] = None,
    opt_out: Annotated[
        str | None, typer.Option(metavar="FILE", help="A list, one a line; what is not here is passed over.")
    ] = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Take images out of a packed run, or of pairs; only the shards that hold them are written again."""
    from lucidflux_data.audit.forget import find_here, forget, forget_pairs
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.pairs.job import is_pairs
    from lucidflux_data.selection.columns import read_list
    from lucidflux_data.storage.folder import Folder

    if not image and opt_out is None:
        raise ConfigError("give the sha256 or key of an image, or --opt-out FILE")
    folder = Folder(run)
    with writing(run, wait):
        pairs = is_pairs(folder)
        wanted = list(image or [])
        if opt_out is not None:
            wanted += find_here(folder, read_list(opt_out), pairs)
        result = (forget_pairs if pairs else forget)(folder, wanted)
    outcome = {"pairs" if pairs else "run": run, **result}
    tell(outcome, json_, then=[(f"lucidflux-data verify {quote(run)} --deep", "proves what is left")])


@app.command("fingerprint")
def fingerprint_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or tar of a benchmark's images.")],
    name: Annotated[str, typer.Option(help="Of the suite.")],
    out: Annotated[Path, typer.Option(*OUT, help="The .parquet file.")],
    allow_uris: AllowUris = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Make the small file that --forbid needs of a benchmark: hashes and positions, no pixels."""
    from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS
    from lucidflux_data.errors import InputError
    from lucidflux_data.measures.fingerprints import count_images
    from lucidflux_data.storage import folder as storage
    from pipelines.execution.progress import warn
    from pipelines.filter.forbidden import make_fingerprints

    storage.allow_uris(allow_uris or ())
    with writing_file(out, wait) as publish:
        data = make_fingerprints(source, name, DEFAULT_MAX_PIXELS)
        images, of = count_images(data)
        if images == 0:
            raise InputError(f"{source} has no image that can be read ({of} listed): there is nothing to compare with")
        if images != of:
            warn(f"{source} has {of} images, {images} of them can be read: no whole suite")
        publish(data)
    outcome = {"suite": name, "file": str(out), "bytes": len(data), "images": images, "of": of}
    tell(
        outcome,
        json_,
        then=[(f"lucidflux-data filter SOURCE --out RUN --forbid {quote(str(out))}", "keeps its images out")],
    )


def add_scores(run: str, scorer: str, changes: ConfigChanges, where: ExecutorOptions, json_: bool) -> None:
    """`score RUN --scorer pkg.mod:function`, or a ready one. `changes`: of `workers` and `storage` alone."""
    import os

    from pyarrow import types

    from lucidflux_data.audit.decoders import check_decoder
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.selection.config import FilterConfig, make_config
    from lucidflux_data.selection.pool import load_pool
    from lucidflux_data.selection.run import parts, read_run
    from lucidflux_data.storage.folder import Folder, configure
    from lucidflux_model.embedding.known import from_anywhere
    from pipelines.execution.progress import Progress
    from pipelines.filter.measures import run_measure
    from pipelines.filter.score import count_decode_threads
    from pipelines.filter.scorers import ScorerUnit, check_alone, load_scorer

    folder, scorer = Folder(run), from_anywhere(scorer)
    base = FilterConfig.model_validate(read_run(folder)["config"])
    config = make_config(file=changes.file, settings=changes.settings, base=base)
    if config.model_copy(update={"workers": base.workers, "storage": base.storage}) != base:
        raise ConfigError("a scorer is added to a run as it is: only workers.* and storage.* can be set here")
    configure(config.storage.model_dump())
    check_decoder(folder)
    load_scorer(scorer, os.getcwd())
    with where.open() as started:
        on_gpu = started.num_gpus > 0
        threads = count_decode_threads(config.workers, on_gpu)
        job = ScorerUnit(config.decode, scorer, os.getcwd(), threads, "cuda" if on_gpu else "cpu")
        pool, name = load_pool(parts(folder)), job.name
        check_alone(pool, name)
        run_measure(pool, config, name, job, started, Progress(quiet=json_), stateful=True)
    tables = [pool.measure(number, name) for number in range(len(pool.parts))]  # units of two kinds are refused now
    fields = [field for table in tables if table is not None for field in table.schema]
    column = next((field.name for field in fields if types.is_floating(field.type)), "COLUMN")
    decides = f"--where {quote(f'{column} > VALUE')}"
    if any(types.is_fixed_size_list(field.type) for field in fields):
        decides = "--semantic-duplicates COS"
    tell({"run": str(folder), "scores": f"scores/{name}"}, json_, then=[
        (f"lucidflux-data select {quote(run)} {decides}", "decides by them"),
    ])  # fmt: skip
