"""`lucidflux restore`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    ConfigChanges,
    ConfigFile,
    DryRun,
    ExecutorName,
    ExecutorOptions,
    Json,
    Limit,
    MaxFailed,
    NumCpus,
    Set,
    Wait,
    check_finite,
    writing,
)
from pipelines.commands.telling import again, tell
from pipelines.execution.failures import check_failed

if TYPE_CHECKING:
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.progress import Progress
    from pipelines.execution.worker import AnyUnit
    from pipelines.restoration.unit import AnyConfig, RestoreUnit

app = typer.Typer(no_args_is_help=True, add_completion=False)

ModelName = Annotated[
    str | None, typer.Option("--model", help="flux-dev; tiny: random weights, for plumbing; or a network's FILE.pth.")
]
ExtraArchs = Annotated[bool, typer.Option("--extra-archs", help="Of FILE: spandrel_extra_arches too, licences differ.")]
Weights = Annotated[str | None, typer.Option(help="A folder made by `lucidflux weights convert`.")]
Trained = Annotated[str | None, typer.Option(metavar="FILE", help="Trained parts over it, as in lucidflux.pth.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps (28); under 15 goes soft.")]
Guidance = Annotated[float | None, typer.Option(callback=check_finite, help="Guidance embedding (4.0).")]
Upscale = Annotated[float | None, typer.Option(callback=check_finite, help="Output side over input side (4).")]
Seed = Annotated[int | None, typer.Option(help="Of the noise, the same for every image.")]
Schedule = Annotated[str | None, typer.Option(help="published, or flux: shifted by the true token count.")]
Numerics = Annotated[str | None, typer.Option(help="fast, or parity: the published code's casts.")]
ColorFix = Annotated[str | None, typer.Option(help="Colours of the proxy, of the lq, or none.")]
ProxyStrength = Annotated[float | None, typer.Option(callback=check_finite, help="Weight of the proxy's branch (1.0).")]
Quantize = Annotated[str | None, typer.Option(help="Backbone as none, fp8 or nf4.")]
Offload = Annotated[str, typer.Option(help="auto (by free memory), none, model or group.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images of one size in one call.")]
Format = Annotated[str | None, typer.Option(help="png, png16 or jpeg.")]
Tile = Annotated[int | None, typer.Option(min=0, help="Side over which an image is tiled, in pixels; 0 is never.")]
ExecutorKind = Annotated[ExecutorName, typer.Option(help="local: this process; ray: one model a GPU.")]


@app.command("restore")
def restore_command(
    ctx: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="File, folder, glob or WebDataset tar.")],
    out: Annotated[str, typer.Option(*OUT, metavar="DIR", help="Folder of the results, new or to be resumed.")],
    model: ModelName = None,
    extra_archs: ExtraArchs = False,
    weights: Weights = None,
    trained: Trained = None,
    steps: Steps = None,
    guidance: Guidance = None,
    upscale: Upscale = None,
    seed: Seed = None,
    schedule: Schedule = None,
    numerics: Numerics = None,
    color_fix: ColorFix = None,
    proxy_strength: ProxyStrength = None,
    quantize: Quantize = None,
    batch: Batch = None,
    format: Format = None,
    tile: Tile = None,
    allow_uris: AllowUris = None,
    limit: Limit = None,
    config: ConfigFile = None,
    set_: Set = None,
    offload: Offload = "auto",
    device: Device = "auto",
    executor: ExecutorKind = ExecutorName.local,
    address: Address = None,
    num_cpus: NumCpus = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs to take, a process with a model on each.")] = None,
    max_failed: MaxFailed = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Restore images: PNG by PNG, names kept, resumed when repeated."""
    short: dict[str, object] = {
        "model.weights": weights,
        "model.trained": trained,
        "model.quantize": quantize,
        "steps": steps,
        "guidance": guidance,
        "upscale": upscale,
        "seed": seed,
        "schedule": schedule,
        "numerics": numerics,
        "color_fix": color_fix,
        "proxy_strength": proxy_strength,
        "model.offload": None if offload == "auto" else offload,
        "batch": batch,
        "format": format,
        "tile": tile,
        "model.device": device,
        **_name_model(model, extra_archs),
    }
    where = ExecutorOptions("ray" if address else executor, num_cpus, num_gpus, address)
    _allow(allow_uris)
    with writing(out, wait, new=True, dry_run=dry_run):
        _restore(ctx, inputs, out, limit, _changes(config, set_ or [], short), where, max_failed, dry_run, json_)


def _name_model(model: str | None, extra_archs: bool) -> dict[str, object]:
    """--model as a setting: `model.file` for a file of weights."""
    from pipelines.restoration.config import is_network_file, refuse_other_file

    refuse_other_file(model)
    return {"model.file" if is_network_file(model) else "model.name": model, "model.extra_archs": extra_archs or None}


def _changes(file: str | None, settings: list[str], short: dict[str, object]) -> ConfigChanges:
    """The short options stand after --set, so they win."""
    return ConfigChanges(file, [*settings, *(f"{name}={value}" for name, value in short.items() if value is not None)])


def _resolve(changes: ConfigChanges) -> AnyConfig:
    """The settings of the model that is asked for. ConfigError for one that the other model has."""
    from lucidflux_data.config import resolve
    from lucidflux_data.errors import ConfigError
    from pipelines.restoration.config import NetworkConfig, RestoreConfig

    file = next((value for value in changes.settings if value.startswith("model.file=")), None)
    if file is None:
        return resolve(RestoreConfig, {}, changes.file, changes.settings)
    try:
        return resolve(NetworkConfig, {}, changes.file, changes.settings)
    except ConfigError as error:
        named = file.removeprefix("model.file=")
        raise ConfigError(f"{error} with --model {named}, whose outputs are its scale times the input") from None


def _allow(prefixes: list[str] | None) -> None:
    from lucidflux_data.config import resolve
    from lucidflux_data.storage.config import StorageConfig
    from lucidflux_data.storage.folder import configure

    configure({"allow_uris": resolve(StorageConfig, {"allow_uris": ",".join(prefixes or [])}).allow_uris})


def _restore(
    ctx: typer.Context,
    inputs: list[str],
    out: str,
    limit: int | None,
    changes: ConfigChanges,
    where: ExecutorOptions,
    max_failed: float | None,
    dry_run: bool,
    json_: bool,
) -> None:
    from lucidflux_data.errors import Interrupted
    from lucidflux_data.storage.folder import Folder
    from lucidflux_model.inference.config import RANDOM_LABEL
    from pipelines.execution.progress import Progress
    from pipelines.restoration import job as restore
    from pipelines.restoration import records
    from pipelines.restoration import rows as work_list
    from pipelines.restoration.config import is_random
    from pipelines.restoration.unit import RestoreUnit

    config, same = _resolve(changes), again(ctx, dry_run=None)
    _check_installed(config)
    folder, progress = Folder(out), Progress(json_)
    if dry_run:
        rows = work_list.make_work_list(work_list.list_images(inputs), config.format, limit)
        names = [row["name"] for row in rows[:10]]
        outcome = {"images": len(rows), "names": names, "config": config.model_dump()}
        tell(outcome, json_, then=[(same, "in earnest")])
        return
    rows = restore.start(folder, inputs, config, limit)
    units = records.list_remaining(folder, rows, config.batch)
    left = sum(unit.size for unit in units)
    if is_random(config):
        progress.say(f"model: {RANDOM_LABEL}")
    if left:
        progress.say(_describe_work(config, left))
    work = RestoreUnit(config, progress.say)
    try:
        with progress.phase("restore", left, len(rows) - left) as advance:
            for unit in _run(folder, units, work, where, progress):
                advance(unit.size)
    except KeyboardInterrupt:
        raise Interrupted("interrupted: repeat the command to resume") from None
    summary = restore.finish(folder, rows)
    folder.sweep()
    following = (f"lucidflux bench --outputs {quote(out)} --metrics niqe", "ranks folders of results")
    if is_random(config):
        following = ("lucidflux weights download --out FILES", "the weights that restore")
    failed = [(same, "tries again what failed")] if summary["failed"] else []
    tell({**summary, "out": str(folder)}, json_, [str(folder)], [*failed, following])
    check_failed(sum(summary["failed"].values()), summary["images"], max_failed, "of the images failed")


def _describe_work(config: AnyConfig, images: int) -> str:
    """What is about to be done, before the model is loaded; the seconds follow, before the first image."""
    from pipelines.restoration.config import RestoreConfig

    sentence = f"{images:,} image{'s' * (images != 1)}"
    if isinstance(config, RestoreConfig):
        side = "" if config.height or config.width else f" at {config.upscale:g} times the size of the input"
        sentence += f", {config.steps} step{'s' * (config.steps != 1)} each{side}"
    return sentence


def _check_installed(config: AnyConfig) -> None:
    """Found out before anything is listed, without the seconds that importing takes."""
    import importlib.util

    from lucidflux_data.errors import needs_extra
    from pipelines.restoration.config import NetworkConfig

    of_a_file = isinstance(config, NetworkConfig)
    with needs_extra("networks" if of_a_file else "model"):
        for package in ("torch", "spandrel") if of_a_file else ("torch", "diffusers", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise ImportError(name=package)


def _run(
    folder: Folder, units: list[AnyUnit], work: RestoreUnit, where: ExecutorOptions, progress: Progress
) -> Iterator[AnyUnit]:
    from pipelines.execution.worker import Publish
    from pipelines.restoration import job as restore

    if where.kind == "local" and not where.num_gpus:
        yield from restore.run_here(folder, units, work if where.num_gpus is None else _on(work, "cpu"))
        return
    with where.open() as executor:
        progress.say(executor.description)
        work = _on(work, "cuda" if executor.num_gpus else "cpu")
        for unit, _ in executor.map(units, Publish(work, folder), None, stateful=True):
            yield unit


def _on(work: RestoreUnit, device: str) -> RestoreUnit:
    """`work` on that device, unless another one was asked for."""
    from pipelines.restoration.unit import RestoreUnit

    if work.config.model.device != "auto":
        return work
    model = work.config.model.model_copy(update={"device": device})
    return RestoreUnit(work.config.model_copy(update={"model": model}), work.say)
