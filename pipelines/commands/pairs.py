"""The commands of `lucidflux-data` for pairs. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lucidflux_data.escapes import show
from pipelines.commands.options import (
    OUT,
    Address,
    AllowUris,
    ConfigFile,
    DryRun,
    ExecutorKind,
    ExecutorName,
    Json,
    Limit,
    MaxFailed,
    NumCpus,
    NumGpus,
    Set,
    Sources,
    Wait,
    allow_setting,
    settle,
    writing,
    writing_file,
)
from pipelines.commands.telling import TRAINS, again, guide, tell, tell_json
from pipelines.execution.failures import check_failed

if TYPE_CHECKING:
    from lucidflux_data.pairs.job import PairsRun

app = typer.Typer(no_args_is_help=True, add_completion=False)

Pairs = Annotated[str, typer.Argument(metavar="PAIRS", help="A folder of pairs.")]


@app.command("synthesize")
def synthesize_command(
    ctx: typer.Context,
    source: Sources,
    out: Annotated[str, typer.Option(*OUT, metavar="PAIRS", help="The folder of pairs, new or to be resumed.")],
    preset: Annotated[str, typer.Option(help="realesrgan-x4, lucidflux, light or codeformer.")] = "realesrgan-x4",
    variants: Annotated[int | None, typer.Option(min=1, help="Pairs of each image; 4 by default.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the HQ in pixels; 1024 by default.")] = None,
    hq: Annotated[str | None, typer.Option(help="png, jxl, webp, jpeg:Q or ref (a pointer into the source).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, other pairs.")] = None,
    backend: Annotated[str, typer.Option(help="cv2, torch or reference (BasicSR itself).")] = "cv2",
    config: ConfigFile = None,
    set_: Set = None,
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
    """Make HQ/LQ pairs of clean images, reproducible sample by sample, in WebDataset shards."""
    from lucidflux_data.degradation.backends import load_backend
    from lucidflux_data.pairs import job as pairs_run
    from lucidflux_data.pairs.config import make_pairs_config, pairs_label
    from lucidflux_data.pairs.crop_rules import describe_other_rules
    from lucidflux_data.storage.folder import Folder, absolute_url, configure
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress, warn
    from pipelines.synthesis import job

    short = {"variants": variants, "degrade.size": size, "hq": hq, "degrade.seed": seed}
    settings = [*(set_ or []), *(f"{name}={value}" for name, value in short.items() if value is not None)]
    settings += allow_setting(allow_uris)
    resolved = make_pairs_config(preset, config, settings)
    configure(resolved.storage.model_dump())
    resolved = make_pairs_config(preset, config, settings, pairs_run.find_encoder(Folder(out)))
    load_backend(backend)  # a missing extra is found now, not in a worker
    urls = [absolute_url(item) for item in source]
    about = pairs_run.make_run(resolved, pairs_label(preset, resolved), backend, urls, limit)
    job.check_sources(urls)
    if dry_run:
        _tell_planned(about, again(ctx, dry_run=None), json_)
        return
    folder, progress = Folder(out), Progress(quiet=json_)
    settle(*(url for url in urls if "*" not in url and "?" not in url), out)
    for sentence in describe_other_rules(urls, resolved.degrade.crop):
        warn(sentence)
    with writing(out, wait, new=True):
        pairs_run.start(folder, about)
        with open_executor(executor, num_cpus, num_gpus, address) as started:
            progress.say(started.description)
            summary = job.synthesize(folder, about, started, progress)
    tell(summary, json_, then=_after_pairs(quote(out)))
    check_failed(sum(summary["failed"].values()), summary["candidates"], max_failed, "of the images failed")


def _tell_planned(about: PairsRun, same: str, json_: bool) -> None:
    """What a dry run of `synthesize` would begin; `same`: the command that is none."""
    if json_:
        tell_json(about)
        return
    degrade = about["config"]["degrade"]
    limit = {} if about["limit"] is None else {"limit": about["limit"]}
    planned: dict[str, object] = {
        "label": about["label"],
        "sources": [source.removeprefix("file://") for source in about["sources"]],
        **limit,
        "variants": about["config"]["variants"],
        "HQ": f"{degrade['size']} px",
        "LQ": f"{degrade['size'] // degrade['scale']} px",
        "backend": about["backend"],
    }
    tell(planned, False, then=[(same, "in earnest")])


def _after_pairs(place: str) -> list[tuple[str, str]]:
    return [
        (f"lucidflux-data view {place}", "a page with before/after sliders"),
        (f"lucidflux-data info {place}", "counts, licences, what was drawn"),
        (f"lucidflux train --data {place} --out RUN --weights WEIGHTS", TRAINS),
    ]


@app.command("replay")
def replay_command(
    pairs: Pairs,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A pair, like 0123456789abcdef0123_00.")],
    out: Annotated[str, typer.Option(*OUT, metavar="DIR", help="Where KEY.lq.png is written.")],
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Make the LQ of one pair again; exit 6 where its bytes are not the stored ones."""
    from lucidflux_data.errors import VerificationError
    from lucidflux_data.pairs.replay import replay_pair
    from lucidflux_data.storage.folder import Folder
    from lucidflux_data.storage.names import safe_file

    settle(pairs)
    name = f"{safe_file(key)}.lq.png"
    with writing(out, wait, new=True):
        result, data = replay_pair(Folder(pairs), key)
        Folder(out).publish(name, data)
    written = {"written": Folder(out).path(name)}
    if not result["equal"]:
        tell(result | written, json_) if json_ else None
        raise VerificationError(result["difference"])
    then = [(f"lucidflux-data view {quote(pairs)}", "a page with before/after sliders")]
    tell(result | written, json_, [written["written"]], then)


@app.command("info")
def info_command(
    pairs: Pairs,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at the plans of N pairs only.")] = None,
    json_: Json = False,
) -> None:
    """The card of a folder of pairs: counts, bytes, licences, every drawn parameter against its preset."""
    from lucidflux_data.pairs.card import card_text, make_card
    from lucidflux_data.storage.folder import Folder

    settle(pairs)
    card = make_card(Folder(pairs), limit)
    if json_:
        tell_json(card)
    else:
        typer.echo(show(card_text(card), lines=True))
        guide(then=[(f"lucidflux-data view {quote(pairs)}", "a page with before/after sliders"),
                    (f"lucidflux train --data {quote(pairs)} --out RUN --weights WEIGHTS", TRAINS)])  # fmt: skip


@app.command("view")
def view_command(
    pairs: Pairs,
    out: Annotated[str | None, typer.Option(*OUT, metavar="FILE", help="PAIRS/view.html by default.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Pairs on the page.")] = 24,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """One HTML file of pairs under a before/after slider, with the plan of each."""
    from lucidflux_data.pairs.view import make_view
    from lucidflux_data.storage.folder import Folder

    settle(pairs)
    with writing_file(out or f"{Folder(pairs)}/view.html", wait) as publish:
        page = make_view(Folder(pairs), limit)
        place = publish(page)
    then = [(f"lucidflux-data info {quote(pairs)}", "counts, licences, what was drawn"),
            (f"lucidflux train --data {quote(pairs)} --out RUN --weights WEIGHTS", TRAINS)]  # fmt: skip
    tell({"view": place, "bytes": len(page)}, json_, [place], then)
