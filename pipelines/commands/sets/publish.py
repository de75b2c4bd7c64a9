"""Commands of `lucidflux-data` that tell others of a set: card, push. Heavy imports are inside, so that --help answers
at once."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from pipelines.commands.options import DryRun, Json, NumCpus, Wait, settle, writing
from pipelines.commands.telling import again, guide, say_table, tell, tell_json
from pipelines.execution.human import human_bytes

app = typer.Typer()

Set_ = Annotated[str, typer.Argument(metavar="DIR", help="A packed run, or a folder of pairs.")]


@app.command("card")
def card_command(
    folder: Set_,
    name: Annotated[str | None, typer.Option(help="Of the set; the folder's name by default.")] = None,
    creator: Annotated[str | None, typer.Option(help="Who made the set; nobody is named otherwise.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="hf://datasets/OWNER/NAME", help="Where it will be, for the snippets.")
    ] = None,
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="Of that place.")] = "main",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a README.md that was edited.")] = False,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Write README.md and croissant.json: what is in a set, its licences, what was looked into and what was not."""
    import os

    from lucidflux_data.publish.card import CARD, write_card
    from lucidflux_data.publish.croissant import CROISSANT
    from lucidflux_data.publish.hub import parse_destination
    from lucidflux_data.storage.folder import Folder

    repository = parse_destination(to) if to is not None else None
    settle(folder)
    place = Folder(folder)
    with writing(folder, wait):
        facts = write_card(place, name or os.path.basename(place.root), creator, repository, overwrite, revision)
    outcome = {
        "card": place.path(CARD),
        "croissant": place.path(CROISSANT),
        "samples": facts.manifest["samples"],
        "licences": facts.licences,
        "not_looked_into": facts.not_looked_into,
    }
    if json_:
        tell_json(outcome)
        return
    tell({key: value for key, value in outcome.items() if key != "not_looked_into"}, False)
    say_table([["NOT looked into" if number == 0 else "", line] for number, line in enumerate(facts.not_looked_into)])
    where = to or "hf://datasets/OWNER/NAME"
    guide([place.path(CARD)], [(f"lucidflux-data push {quote(folder)} --to {where} --dry-run", "what would be sent")])


@app.command("push")
def push_command(
    ctx: typer.Context,
    folder: Set_,
    to: Annotated[str, typer.Option(metavar="hf://datasets/OWNER/NAME", help="The repository, new or there.")],
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="Made where it is not there.")] = "main",
    private: Annotated[bool, typer.Option("--private", help="A new repository that others do not see.")] = False,
    num_cpus: NumCpus = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Send shards, manifest and card to the Hugging Face Hub; resumes. Tables and reports, which name places, stay."""
    from lucidflux_data.pairs.job import is_pairs
    from lucidflux_data.publish.hub import Destination, check_ready, parse_destination, push
    from lucidflux_data.publish.published import describe_places, list_published
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress, warn
    from pipelines.filter.repair import verify_run
    from pipelines.synthesis.verify import verify_pairs

    place, progress = Folder(folder), Progress(quiet=json_)
    destination = Destination(parse_destination(to), revision, private)
    if not dry_run:
        check_ready()
    settle(folder)
    with writing(folder, wait, dry_run=dry_run):
        files = list_published(place, destination.repository, revision)
        for sentence in describe_places(place):
            warn(sentence)
        with open_executor("local", num_cpus, 0, None) as started:
            (verify_pairs if is_pairs(place) else verify_run)(place, False, False, started, progress)
        if dry_run:
            listed = [{"name": file.name, "bytes": file.bytes} for file in files]
            outcome = {"to": destination.url, "revision": revision, "private": private, "files": listed}
            if json_:
                tell_json(outcome)
                return
            say_table([[file.name, human_bytes(file.bytes)] for file in files])
            guide(then=[(again(ctx, dry_run=None), "sends them")])
            return
        pushed = push(place, files, destination, progress.say)
    tell(
        {name: value for name, value in pushed.items() if name != "page" or json_},
        json_,
        [pushed["page"]],
        [(f"lucidflux-data verify {quote(folder)} --deep", "decodes every image, before others do")],
    )
