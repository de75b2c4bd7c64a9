"""Commands of `lucidflux-data` around a set: plan, retry, diff, what-if, explore, report, forget, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidflux_data.escapes import show
from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    ConfigChanges,
    ConfigFile,
    ExecutorKind,
    ExecutorName,
    ExecutorOptions,
    Iqa,
    Json,
    MinSide,
    NumCpus,
    Preset,
    RunFolder,
    Set,
    Sources,
    TopFraction,
    TopK,
    Wait,
    Where,
    allow_setting,
    check_finite,
    cut_settings,
    select_settings,
    settle,
    tell,
    tell_json,
    writing,
)

if TYPE_CHECKING:
    from lucidflux_data.audit.what_if import Tried

app = typer.Typer()


@app.command("plan")
def plan_command(
    source: Sources,
    num_cpus: Annotated[int, typer.Option(min=1, help="Cores of the cluster.")],
    num_gpus: Annotated[int, typer.Option(min=0, help="GPUs of the cluster.")] = 0,
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    preset: Preset = "lucidflux",
    config: ConfigFile = None,
    set_: Set = None,
    iqa: Iqa = None,
    allow_uris: AllowUris = None,
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
    """Predict wall time, core and GPU hours, bytes, memory, shards and money from a measured sample."""
    from dataclasses import replace

    from lucidflux_data.selection.config import make_config
    from lucidflux_data.storage.folder import Folder, absolute_url, configure
    from pipelines.filter import estimate as plan

    resolved = make_config(
        preset, config, [*(set_ or []), *([f"iqa.metric={iqa}"] if iqa else []), *allow_setting(allow_uris)]
    )
    configure(resolved.storage.model_dump())
    costs, shares, found = plan.probe([absolute_url(item) for item in source], resolved, sample)
    if gpu_images_per_s is not None:
        costs = replace(costs, metric_s=1 / gpu_images_per_s, gpu=True)
    machines = plan.Machines(num_cpus, num_gpus, nodes, storage_gbps, price_cpu_hour, price_gpu_hour)
    prediction = plan.predict(costs, candidates or found, resolved, machines)
    if out is not None:
        with writing(out, wait, new=True):
            Folder(out).publish(plan.PLAN_FILE, json.dumps(prediction).encode())
    if json_:
        tell_json({"probe": shares, "costs": costs.__dict__, **prediction})
        return
    for reason, (share, low, high) in shares.items():
        typer.echo(f"{reason}: {share:.1%} ({low:.1%} to {high:.1%}) of {costs.images} sampled")
    tell(prediction, False)


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
    tell({"run": run, **result, "next": f"lucidflux-data select {run}"}, json_)


@app.command("diff")
def diff_command(
    first: Annotated[str, typer.Argument(metavar="A")],
    second: Annotated[str, typer.Argument(metavar="B")],
    json_: Json = False,
) -> None:
    """What a second run's set has more, less and other, by reason, and how its scores moved."""
    from lucidflux_data.audit.compare import compare
    from lucidflux_data.storage.folder import Folder

    settle(first, second)
    tell(compare(Folder(first), Folder(second)), json_)


@app.command("what-if")
def what_if_command(
    run: RunFolder,
    set_: Set = None,
    top_fraction: TopFraction = None,
    top_k: TopK = None,
    min_side: MinSide = None,
    where: Where = None,
    json_: Json = False,
) -> None:
    """How many images other thresholds would keep, from the tables alone: of the settings given, all at once, or of a
    grid."""
    from lucidflux_data.audit.what_if import try_settings, what_if
    from lucidflux_data.selection.config import FilterConfig
    from lucidflux_data.selection.run import read_run
    from lucidflux_data.storage.folder import Folder

    settle(run)
    folder = Folder(run)
    config = FilterConfig.model_validate(read_run(folder)["config"])
    settings = cut_settings(set_, None, top_fraction, top_k, min_side)
    settings += select_settings(None, None, where, None, None, None)
    if settings:
        tried = try_settings(folder, config, settings)
        if json_:
            tell_json(tried)
        else:
            _tell_tried(tried, run)
        return
    rows = what_if(folder, config)
    if json_:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        mark = "  <- now" if row["now"] else ""
        setting = f"{row['setting']}={row['value']}"
        typer.echo(f"{setting:36} survivors {row['survivors']:>9,}  kept {row['kept']:>9,}{mark}")


def _tell_tried(tried: Tried, run: str) -> None:
    """A line for each count that there is, now and then."""
    now, then = tried["now"], tried["then"]
    typer.echo(show(f"{'':24}{'now':>12}{'then':>12}  with {', '.join(tried['settings'])}"))
    if then is None:
        scores, measures = tried["scores_to_compute"], tried["measures_to_take"]
        least = f"at least {tried['kept']:,}" if tried["kept"] else "cannot be told yet"
        typer.echo(f"{'kept':24}{now['kept']:>12,}  {least}: of {tried['survivors']:,} survivors of the rules "
                   f"{scores:,} have no score and {measures:,} lack another measure")  # fmt: skip
        typer.echo(show(f"lucidflux-data select {run} with these settings computes them"))
        return
    lines = {"kept": (now["kept"], then["kept"])}
    gone = [{**each["failed"], **each["rejected"]} for each in (now, then)]
    lines |= {reason: (gone[0].get(reason, 0), gone[1].get(reason, 0)) for reason in {**gone[0], **gone[1]}}
    for name, (before, after) in lines.items():
        change = f"  {after - before:+,}" if after != before else ""
        typer.echo(f"{name:24}{before:>12,}{after:>12,}{change}")


@app.command("report")
def report_command(run: RunFolder, wait: Wait = 0, json_: Json = False) -> None:
    """Write report.html again."""
    from lucidflux_data.audit import report
    from lucidflux_data.storage.folder import Folder

    settle(run)
    folder = Folder(run)
    with writing(run, wait):
        folder.publish("report.html", report.make_report(folder))
    tell({"report": folder.path("report.html")}, json_)


@app.command("explore")
def explore_command(run: RunFolder, wait: Wait = 0, json_: Json = False) -> None:
    """Write explore.html: a slider for each rule, what it keeps, and the images at the cut. Needs no server."""
    from lucidflux_data.explore.page import PAGE, make_explore
    from lucidflux_data.storage.folder import Folder

    settle(run)
    folder = Folder(run)
    with writing(run, wait):
        page, made = make_explore(folder, run)
        folder.publish(PAGE, page)
    tell({"page": folder.path(PAGE), **made, "bytes": len(page), "next": "open the page in a browser"}, json_)


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
    tell({"pairs" if pairs else "run": run, **result}, json_)


@app.command("fingerprint")
def fingerprint_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or tar of a benchmark's images.")],
    name: Annotated[str, typer.Option(help="Of the suite.")],
    out: Annotated[Path, typer.Option(*OUT, help="The .parquet file.")],
    json_: Json = False,
) -> None:
    """Make the small file that --forbid needs of a benchmark: hashes and positions, no pixels."""
    from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS
    from lucidflux_data.errors import InputError
    from lucidflux_data.measures.fingerprints import count_images
    from pipelines.execution.progress import warn
    from pipelines.filter.forbidden import make_fingerprints

    data = make_fingerprints(source, name, DEFAULT_MAX_PIXELS)
    images, of = count_images(data)
    if images == 0:
        raise InputError(f"{source} has no image that can be read ({of} listed): there is nothing to compare with")
    if images != of:
        warn(f"{source} has {of} images, {images} of them can be read: no whole suite")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    tell({"suite": name, "file": str(out), "bytes": len(data), "images": images, "of": of}, json_)


@app.command("doctor")
def doctor_command(
    metric: Annotated[list[str], typer.Argument(metavar="METRIC...")],
    images: Annotated[Path | None, typer.Option(help="Photos of 256 px and more; scikit-image's otherwise.")] = None,
    json_: Json = False,
) -> None:
    """Test metrics: does an image's score depend on the other images in its batch? Which way do blur, noise and JPEG
    move it? Do devices agree?"""
    from pipelines.filter.repair import examine_metrics

    cards = examine_metrics(metric, images)
    if json_:
        tell_json(cards)
        return
    for name, card in cards.items():
        typer.echo(f"{name}: " + ", ".join(f"{key} {_short(value)}" for key, value in card.items()))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def add_scores(run: str, scorer: str, changes: ConfigChanges, where: ExecutorOptions, json_: bool) -> None:
    """`score RUN --scorer pkg.mod:function`. `changes`: of `workers` and `storage` alone."""
    import os

    from lucidflux_data.audit.decoders import check_decoder
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.selection.config import FilterConfig, make_config
    from lucidflux_data.selection.pool import load_pool
    from lucidflux_data.selection.run import parts, read_run
    from lucidflux_data.storage.folder import Folder, configure
    from pipelines.execution.progress import Progress
    from pipelines.filter.measures import run_measure
    from pipelines.filter.score import count_decode_threads
    from pipelines.filter.scorers import ScorerUnit, load_scorer, scorer_name

    folder = Folder(run)
    base = FilterConfig.model_validate(read_run(folder)["config"])
    config = make_config(file=changes.file, settings=changes.settings, base=base)
    if config.model_copy(update={"workers": base.workers, "storage": base.storage}) != base:
        raise ConfigError("a scorer is added to a run as it is: only workers.* and storage.* can be set here")
    configure(config.storage.model_dump())
    check_decoder(folder)
    load_scorer(scorer, os.getcwd())
    with where.open() as started:
        job = ScorerUnit(config.decode, scorer, os.getcwd(), count_decode_threads(config.workers, started.num_gpus > 0))
        pool, name = load_pool(parts(folder)), scorer_name(scorer)
        run_measure(pool, config, name, job, started, Progress(quiet=json_), stateful=True)
    for number in range(len(pool.parts)):
        pool.measure(number, name)  # units that are of two kinds are told now, not in the next select
    tell({"run": str(folder), "scores": f"scores/{scorer_name(scorer)}"}, json_)
