"""`lucidflux train`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    DryRun,
    ExecutorKind,
    ExecutorName,
    Json,
    NumCpus,
    NumGpus,
    Set,
    SuitesDir,
    Wait,
    allow_setting,
    settle,
)
from pipelines.commands.telling import again, tell

if TYPE_CHECKING:
    from lucidflux_model.training.config import TrainConfig
    from lucidflux_model.training.setup import Summary

app = typer.Typer(no_args_is_help=True, add_completion=False)

Data = Annotated[list[str], typer.Option(help="Folder of pairs, or tars; may be repeated.")]
Run = Annotated[str, typer.Option(*OUT, metavar="RUN", help="The run's folder; all nodes must share it.")]
Model = Annotated[str | None, typer.Option(help="flux-dev, or tiny: random backbone, for plumbing.")]
Weights = Annotated[str | None, typer.Option(help="A folder made by `lucidflux weights convert`.")]
Config = Annotated[
    str | None, typer.Option(metavar="FILE", help="TOML, or one of ours: lucidflux, published-script, debug.")
]
Init = Annotated[str | None, typer.Option(metavar="WEIGHTS", help="Start from lucidflux.pth, or from another run.")]
Resume = Annotated[bool, typer.Option(help="Go on with what is in RUN; start where nothing is.")]
ValidateOn = Annotated[
    list[str] | None,
    typer.Option("--validate-on", metavar="SUITE", help="A prepared benchmark suite; marks what is trained."),
]
DataChanged = Annotated[
    bool, typer.Option("--data-changed", help="With --resume: go on with data that are others now; it is recorded.")
]
Launcher = Annotated[str, typer.Option(help="local: this machine; ray: a cluster.")]
Workers = Annotated[int | None, typer.Option(min=1, help="GPUs, a process on each; one, or all with ray.")]
CpuWorkers = Annotated[int | None, typer.Option(min=1, help="Processes without GPUs, instead.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda ...")]


@app.command("train")
def train_command(
    ctx: typer.Context,
    data: Data,
    out: Run,
    model: Model = None,
    weights: Weights = None,
    config: Config = None,
    init: Init = None,
    resume: Resume = False,
    data_changed: DataChanged = False,
    allow_uris: AllowUris = None,
    validate_on: ValidateOn = None,
    suites_dir: SuitesDir = None,
    launcher: Launcher = "local",
    num_gpus: Workers = None,
    num_cpus: CpuWorkers = None,
    address: Address = None,
    set_: Set = None,
    device: Device = "auto",
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Train LucidFlux on pairs; stop at any moment, go on with --resume, on any number of GPUs."""
    from lucidflux_data.errors import ConfigError, needs_extra
    from pipelines.execution.progress import Progress

    short = {"model.name": model, "model.weights": weights, "validation.suites": _folders(validate_on, suites_dir)}
    resolved = _resolved(config, short, [*(set_ or []), *allow_setting(allow_uris)])
    launcher = "ray" if address else launcher
    if launcher not in ("local", "ray"):
        raise ConfigError(f"--launcher is local or ray, not {launcher}")
    if num_cpus is not None and num_gpus is not None:
        raise ConfigError("--num-gpus and --num-cpus exclude each other: processes on GPUs, or processes without")
    with needs_extra("model"):
        from lucidflux_model.training.distributed import is_launched
        from pipelines.training import launch as job

    where = device if num_cpus is None else "cpu"
    request = job.Request(resolved, tuple(data), out, init, resume, where, wait, data_changed)
    progress, processes = Progress(json_), num_cpus or num_gpus
    if dry_run:
        from pipelines.training.plan import plan

        planned = plan(request, processes or 1, progress)
        outcome = {**planned, "config": resolved.model_dump() if json_ else resolved.model_dump_json()}
        tell(outcome, json_, then=[(again(ctx, dry_run=None), "in earnest")])
        return
    settle(*(source for source in data if not source.endswith(".tar") and "*" not in source))
    result: Summary | None
    if launcher == "ray":
        from pipelines.training.on_ray import train_on_ray

        result = train_on_ray(request, num_gpus, num_cpus, address, progress)
    elif processes and not is_launched():
        result = job.launch_processes(request, processes, num_gpus is not None, progress)
    else:
        result = job.train_here(request, progress)
    if result is not None:
        tell(result, json_, [result["report"]], _after(result, resolved))


def _after(result: Summary, config: TrainConfig) -> list[tuple[str, str]]:
    model = f"--model {config.model.name}"
    if config.model.weights:
        model += f" --weights {quote(config.model.weights)}"
    restore = f"lucidflux restore PHOTOS --out DIR {model} --trained {quote(result['trained'])}"
    return [(restore, "restores with it"), (f"lucidflux weights verify {quote(result['run'])}", "its checkpoints")]


@app.command("cache")
def cache_command(
    ctx: typer.Context,
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="A folder of pairs.")],
    kinds: Annotated[str, typer.Option(help="Out of latent, proxy, semantic.")] = "latent,proxy,semantic",
    model: Model = None,
    weights: Weights = None,
    config: Config = None,
    set_: Set = None,
    device: Device = "auto",
    executor: ExecutorKind = ExecutorName.ray,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Encode pairs with the frozen parts once, for `train --set data.cached=...`; repeat to resume."""
    from lucidflux_data.errors import needs_extra
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress

    resolved = _resolved(config, {"model.name": model, "model.weights": weights, "data.cached": kinds}, set_)
    with needs_extra("model"):
        from lucidflux_model.inference.loading import quiet_libraries
        from pipelines.training import encode as job

    quiet_libraries()
    settle(pairs)
    job.check(pairs, resolved)  # before a cluster is started
    progress = Progress(json_)
    with open_executor(executor, num_cpus, num_gpus, address) as started:
        progress.say(started.description)
        made = job.cache(pairs, resolved, resolved.data.cached, device, started, progress, wait)
    here = dict.fromkeys(("executor", "num_cpus", "num_gpus", "address"))
    settings = [*(set_ or []), f"data.cached={kinds}"]
    train = again(ctx, "train", data=pairs, out="RUN", set_=settings, **here)
    tell(made, json_, [made["cache"]], [(train, "trains with it")])


def _resolved(config: str | None, short: dict[str, str | None], set_: list[str] | None) -> TrainConfig:
    """defaults < --config < options of their own < --set."""
    from lucidflux_model.training.config import make_train_config

    settings = [f"{name}={value}" for name, value in short.items() if value is not None]
    return make_train_config(config, [*settings, *(set_ or [])])


def _folders(names: list[str] | None, suites_dir: Path | None) -> str | None:
    """Where the named suites are prepared, by commas."""
    if not names:
        return None
    from benchmarks.suites.suite import suites_folder
    from pipelines.bench.evaluate import prepared_suite

    folder = suites_folder(suites_dir).absolute()
    return ",".join(str(folder / prepared_suite(name, folder).name) for name in names)
