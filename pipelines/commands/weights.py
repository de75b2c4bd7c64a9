"""`lucidflux weights ...`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from lucidflux_data.escapes import show
from pipelines.commands.options import OUT, Json, Wait, writing
from pipelines.commands.telling import tell

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Weight files: convert, verify, compare.")


Files = Annotated[Path, typer.Argument(metavar="FILES", help="A folder of published files.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of converted weights, or of a training run.")]


@app.command("download")
def download_command(
    metric: Annotated[
        list[str] | None, typer.Argument(metavar="[METRIC]...", help="clipiqa, musiq ...: into the cache of each.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(*OUT, metavar="FILES", help="Folder for the published files of LucidFlux.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Just this file; may be repeated.")] = None,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Fetch weights: of metrics, and with --out those of LucidFlux; resumes, and compares every sha256."""
    from lucidflux_data.errors import ConfigError, needs_extra, suggest
    from lucidflux_data.iqa.fetch import fetch_metric
    from lucidflux_data.iqa.weight_files import WEIGHTS

    if not metric and out is None:
        raise ConfigError(f"name metrics ({', '.join(WEIGHTS)}), or give --out FILES for the weights of LucidFlux")
    if only and out is None:
        raise ConfigError("--only names files of LucidFlux, which go into --out FILES")
    for name in metric or ():
        if name not in WEIGHTS:
            raise ConfigError(f"there are no weights of {name!r} to fetch: {suggest(name, WEIGHTS)}")
    found: dict[str, str] = {}
    for name in metric or ():
        found |= fetch_metric(name, _say, wait)
    if out is not None:
        with needs_extra("model"):
            from lucidflux_model.conversion.download import download

        with writing(str(out), wait, new=True):
            found |= download(out, only or (), _say)
    then = [(f"lucidflux doctor {name}", "tests the metric on photos") for name in metric or ()]
    if "clipiqa" in (metric or ()):
        then.append(("lucidflux-data filter PHOTOS --out RUN", "whose cut is by CLIP-IQA"))
    if out is not None:
        then.append(
            (f"lucidflux weights convert {quote(str(out))} --out DIR", "for restore and train, when all are there")
        )
    tell(found, json_, [str(out)] if out is not None else [], then)


@app.command("convert")
def convert_command(
    files: Files,
    out: Annotated[
        Path,
        typer.Option(*OUT, metavar="DIR", help="New folder, for `restore --weights` and from_pretrained."),
    ],
    model: Annotated[str, typer.Option(help="flux-dev or tiny.")] = "flux-dev",
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Turn the published files into safetensors that diffusers reads; nothing missing, nothing skipped."""
    from lucidflux_data.errors import needs_extra

    with needs_extra("model"):
        from lucidflux_model.conversion.convert import convert
        from lucidflux_model.inference.loading import quiet_libraries

    quiet_libraries()
    hashes = convert(files, out, model, _say, wait)
    _tell_converted({"weights": str(out), "files": len(hashes)}, out, model, json_)


def _tell_converted(outcome: Mapping[str, object], folder: Path, model: str, json_: bool) -> None:
    """What was found or made of a folder of converted weights."""
    place = quote(str(folder)) + ("" if model == "flux-dev" else f" --model {model}")
    then = [(f"lucidflux restore PHOTOS --out DIR --weights {place}", "restores with them"),
            (f"lucidflux train --data PAIRS --out RUN --weights {place}", "trains on them")]  # fmt: skip
    tell(outcome, json_, [str(folder)], then)


@app.command("export")
def export_command(
    folder: Folder,
    out: Annotated[Path, typer.Option(*OUT, metavar="FILE", help="lucidflux.pth or lucidflux.safetensors.")],
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Write the trained parts in the published layout, and their card: of converted weights, or of a training run."""
    from lucidflux_data.errors import needs_extra

    with needs_extra("model"):
        from lucidflux_model.conversion.convert import export
        from lucidflux_model.conversion.model_card import write_model_card
        from lucidflux_model.training.setup import export as export_run
    from pipelines.execution.progress import warn

    with writing(str(out.parent), wait, new=True):
        if (folder / "checkpoints").is_dir():
            export_run(folder, out, say=_say)
        else:
            export(folder, out)
        card = write_model_card(folder, out)
    if card is None:
        warn(f"{out.with_name('README.md')} is not of `weights export`: it stays, and the weights have no card")
    outcome = {"trained": str(out), **({"card": str(card)} if card else {})}
    then = [(f"lucidflux restore PHOTOS --out DIR --weights WEIGHTS --trained {quote(str(out))}", "restores with them")]
    tell(outcome, json_, [str(out)], then)


@app.command("verify")
def verify_command(folder: Folder, json_: Json = False) -> None:
    """Check hashes, keys and shapes of converted weights, or the checkpoints of a run; exit 6 names what is wrong."""
    from lucidflux_data.errors import needs_extra

    with needs_extra("model"):
        from lucidflux_model.conversion.convert import verify
        from lucidflux_model.training.checkpoints import verify_run

    if (folder / "checkpoints").is_dir():
        export = f"lucidflux weights export {quote(str(folder))} --out lucidflux.safetensors"
        tell(verify_run(folder), json_, [str(folder)], [(export, "the trained parts of the last one")])
    else:
        found = verify(folder)
        _tell_converted(found, folder, found["model"], json_)


@app.command("prompt")
def prompt_command(
    encoders: Annotated[Path, typer.Argument(metavar="DIR", help="FLUX.1-dev with its text encoders and tokenizers.")],
    out: Annotated[
        Path,
        typer.Option(*OUT, metavar="FILE", help="prompt_embeddings.safetensors among the published files."),
    ],
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Embed the constant prompt with T5 and CLIP: once, where prompt_embeddings.pt is not at hand."""
    from lucidflux_data.errors import needs_extra

    with needs_extra("model"):
        from lucidflux_model.conversion.convert import compute_prompt

    with writing(str(out.parent), wait, new=True):
        outcome = {"prompt": str(out), **compute_prompt(encoders, out)}
    convert = f"lucidflux weights convert {quote(str(out.parent))} --out DIR"
    tell(outcome, json_, [str(out)], [(convert, "with the other published files beside it")])


def _say(line: str) -> None:
    typer.echo(show(line), err=True)


@app.command("parity")
def parity_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A golden folder: config, weights, tensors.")],
    json_: Json = False,
) -> None:
    """Recompute golden tensors with the product's own classes; exit 6 where an error is over 1e-4."""
    from lucidflux_data.errors import VerificationError, needs_extra

    with needs_extra("model"):
        from lucidflux_model.conversion.parity import TOLERANCE, parity

    errors = parity(folder)
    outcome = {name: error if json_ else f"{error:.1e}" for name, error in errors.items()}
    tell(outcome, json_, then=[("lucidflux weights verify WEIGHTS", "hashes, keys and shapes of converted weights")])
    over = [name for name, error in errors.items() if not error <= TOLERANCE]
    if over:
        raise VerificationError(
            f"{len(over)} of {len(errors)} tensors differ by more than {TOLERANCE}: {', '.join(over)}"
        )
