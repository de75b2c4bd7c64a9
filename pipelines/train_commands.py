"""`lucidflux train`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lucidflux_data.options import Address, DryRun, ExecutorKind, Json, NumCpus, NumGpus, Set, tell

app = typer.Typer(no_args_is_help=True, add_completion=False)

Data = Annotated[list[str], typer.Option(help="Folder of pairs, or tars; may be repeated.")]
Run = Annotated[str, typer.Option("--out", metavar="RUN", help="The run's folder; all nodes must share it.")]
Model = Annotated[str | None, typer.Option(help="flux-dev, or tiny: random backbone, for plumbing.")]
Weights = Annotated[str | None, typer.Option(help="A folder made by `lucidflux weights convert`.")]
Config = Annotated[
    str | None, typer.Option(metavar="FILE", help="TOML, or one of ours: lucidflux, published-script, debug.")
]
Init = Annotated[str | None, typer.Option(metavar="WEIGHTS", help="Start from lucidflux.pth, or from another run.")]
Resume = Annotated[bool, typer.Option(help="Go on with what is in RUN; start where nothing is.")]
Launcher = Annotated[str, typer.Option(help="local (torchrun with --num-gpus over 1), or ray.")]
Workers = Annotated[int | None, typer.Option(min=1, help="GPUs, a process on each.")]
CpuWorkers = Annotated[int | None, typer.Option(min=1, help="With --launcher ray: processes without GPUs.")]


@app.command("train")
def train_command(
    data: Data,
    out: Run,
    model: Model = None,
    weights: Weights = None,
    config: Config = None,
    init: Init = None,
    resume: Resume = False,
    launcher: Launcher = "local",
    num_gpus: Workers = None,
    num_cpus: CpuWorkers = None,
    address: Address = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Train LucidFlux on pairs; stop at any moment, go on with --resume, on any number of GPUs."""
    from lucidflux_data.errors import ConfigError, needs_extra
    from lucidflux_model.train_config import make_train_config
    from pipelines.progress import Progress

    short = {"model.name": model, "model.weights": weights}
    settings = [*(f"{name}={value}" for name, value in short.items() if value is not None), *(set_ or [])]
    resolved = make_train_config(config, settings)
    if launcher not in ("local", "ray"):
        raise ConfigError(f"--launcher is local or ray, not {launcher}")
    if num_cpus is not None and launcher == "local":
        raise ConfigError("--num-cpus counts the processes of --launcher ray")
    if dry_run:
        tell({"config": resolved.model_dump_json()} if not json_ else resolved.model_dump(), json_)
        return
    with needs_extra("model"):
        from lucidflux_model.loading import quiet_libraries
        from pipelines import train as job

    request = job.Request(resolved, tuple(data), out, init, resume, device)
    progress = Progress(json_)
    quiet_libraries()
    result: dict[str, Any] | None
    if launcher == "ray":
        from pipelines.train_ray import train_on_ray

        result = train_on_ray(request, num_gpus, num_cpus, address, progress)
    else:
        if job.wants_torchrun(num_gpus):
            job.start_torchrun(num_gpus or 1, progress)
        result = job.train_here(request, progress)
    if result is not None:
        tell(result, json_)


@app.command("cache")
def cache_command(
    pairs: Annotated[str, typer.Argument(metavar="PAIRS", help="A folder of pairs.")],
    kinds: Annotated[str, typer.Option(help="Out of latent, proxy, semantic.")] = "latent,proxy,semantic",
    model: Model = None,
    weights: Weights = None,
    config: Config = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    executor: ExecutorKind = "ray",
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    address: Address = None,
    json_: Json = False,
) -> None:
    """Encode pairs with the frozen parts once, for `train --set data.cached=...`; repeat to resume."""
    from lucidflux_data.errors import needs_extra
    from lucidflux_model.train_config import make_train_config
    from pipelines.executor import open_executor
    from pipelines.progress import Progress

    short = {"model.name": model, "model.weights": weights, "data.cached": kinds}
    settings = [*(f"{name}={value}" for name, value in short.items() if value is not None), *(set_ or [])]
    resolved = make_train_config(config, settings)
    with needs_extra("model"):
        from lucidflux_model.loading import quiet_libraries
        from pipelines import cache as job

    quiet_libraries()
    progress = Progress(json_)
    with open_executor(executor, num_cpus, num_gpus, address) as started:
        progress.say(started.description)
        tell(job.cache(pairs, resolved, resolved.data.cached, device, started, progress), json_)
