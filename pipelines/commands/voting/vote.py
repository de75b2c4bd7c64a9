"""`lucidflux bench vote`: the page that asks. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from shlex import join
from typing import Annotated

import typer

from pipelines.commands.bench import IdPattern, IdsFile, Inputs, Outputs, References
from pipelines.commands.options import OUT, DryRun, Json, Limit, SuitesDir, Wait, check_finite, writing
from pipelines.commands.telling import again, tell

app = typer.Typer()
PAGE = "vote.html"


class Beside(StrEnum):
    """What raters see between the two outputs."""

    nothing = "nothing"
    input = "input"
    reference = "reference"


@app.command("vote")
def vote_command(
    ctx: typer.Context,
    outputs: Outputs,
    suite: Annotated[str | None, typer.Argument(metavar="[SUITE]", help="A suite by name.")] = None,
    inputs: Inputs = None,
    gt: References = None,
    out: Annotated[Path, typer.Option(*OUT, metavar="DIR", help="Where the page is written.")] = Path("bench-vote"),
    trials: Annotated[int, typer.Option(min=1, help="Comparisons of a rater, without repeated ones.")] = 60,
    repeat: Annotated[
        float, typer.Option(min=0, max=0.5, callback=check_finite, help="Share of them that is asked twice.")
    ] = 0.1,
    beside: Annotated[Beside, typer.Option(help="What stands between the two outputs.")] = Beside.nothing,
    seed: Annotated[int, typer.Option(min=0, max=999_999_999, help="Of the draw.")] = 0,
    ids: IdsFile = None,
    id_pattern: IdPattern = None,
    limit: Limit = None,
    suites_dir: SuitesDir = None,
    wait: Wait = 0,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Write one page that asks people, blindly, which of two outputs is better; `--votes` reads their answers."""
    from benchmarks import evaluation
    from benchmarks.methods import submission
    from benchmarks.report.results import Options
    from benchmarks.suites import suite as suites
    from benchmarks.suites.ids import read_ids, read_pattern
    from benchmarks.votes.page import make_page
    from benchmarks.votes.study import make_study, shown_beside
    from lucidflux_data.storage.folder import Folder
    from pipelines.execution.progress import Progress

    named, pattern = read_ids(ids) if ids else None, read_pattern(id_pattern)
    methods = submission.find_methods(outputs, pattern)
    places = evaluation.Places(inputs, gt, pattern, True, named)
    over = evaluation.choose_suite(suite, suites.suites_folder(suites_dir), methods, places)
    chosen = evaluation.choose_ids(over, methods, Options(True, named, limit=limit))
    suites.check_images(over, chosen)
    submission.inspect(methods, over, chosen)
    study = make_study(over, methods, chosen, seed, trials, repeat, beside)
    count = len(study.pictures) + len(shown_beside(study, over))
    told = {
        "study": study.name,
        "comparisons": len(study.trials) + study.repeats,
        "repeated": study.repeats,
        "images": len(study.ids),
        "pictures": count,
        "left_out": study.left_out,
    }
    if dry_run:
        tell(told, json_, then=[(again(ctx, dry_run=None), "in earnest")])
        return
    progress = Progress(quiet=json_)
    with writing(str(out), wait, new=True), progress.phase("pictures", count, 0) as advance:
        page = make_page(study, over, advance)
        Folder(out).publish(PAGE, page)
    where = ["--suite", suite] if suite else []
    rank = join(["lucidflux", "bench", *where, "--outputs", *outputs, "--votes", "votes-NAME.csv"])
    tell({**told, "bytes": len(page)}, json_, [str(out / PAGE)], [(rank, "ranks by what raters saved")])
