"""The verbs of `lucidflux bench` that need no executor: suites, prepare, compare, published, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.options import Json, tell, tell_json

SuiteName = Annotated[str | None, typer.Option("--suite", metavar="NAME", help="A suite by name; see `bench suites`.")]
SuitesDir = Annotated[Path | None, typer.Option(help="Where prepared suites are; LUCIDFLUX_SUITES by default.")]
ProfileName = Annotated[str | None, typer.Option(metavar="NAME", help="lucidflux-paper, seesr-paper or offline.")]

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("suites")
def suites_command(suites_dir: SuitesDir = None, json_: Json = False) -> None:
    """List the suites, and which are prepared here."""
    from benchmarks.suites import suite as suites

    folder = suites.suites_folder(suites_dir)
    rows = []
    for name in suites.suite_names():
        suite = suites.load_suite(name, folder)
        sizes = [f"{size[0]}x{size[1]}" if size else "any" for size in (suite.input_size, suite.output_size)]
        row: dict[str, Any] = {"name": name, "version": suite.version, "images": suite.count, "scale": suite.scale}
        row |= {"input": sizes[0], "output": sizes[1], "gt": suite.has_gt, "prepared": suite.pinned}
        rows.append(row | {"about": suite.about, "licence": suite.licence, "get": suite.get})
    if json_:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        mark = "prepared" if row["prepared"] else "not prepared"
        gt = "with references" if row["gt"] else "no references"
        typer.echo(f"{row['name']:16} {row['images']:>5} images  x{row['scale']}  {row['output']:>9}  {gt}  {mark}")
        typer.echo(f"{'':16} {row['about']}\n{'':16} get it: {row['get']}")


@app.command("prepare")
def prepare_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The suite.")],
    from_: Annotated[Path | None, typer.Option("--from", metavar="ARCHIVE", help="Folder, zip or tar.")] = None,
    suites_dir: SuitesDir = None,
    json_: Json = False,
) -> None:
    """Check a suite's images, lay them out and fingerprint them."""
    from benchmarks.suites import prepare
    from benchmarks.suites import suite as suites

    folder = suites.suites_folder(suites_dir)
    tell(prepare.prepare(suites.load_suite(name, None), from_, folder / name), json_)


@app.command("compare")
def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help="RESULTS, or RESULTS:METHOD.")],
    b: Annotated[str, typer.Argument(metavar="B", help="RESULTS, or RESULTS:METHOD.")],
    resamples: Annotated[int, typer.Option(min=100)] = 10_000,
    json_: Json = False,
) -> None:
    """Paired differences of two methods, or of two results folders."""
    from benchmarks.leaderboard import compare
    from benchmarks.report import tables

    found = compare.compare(a, b, resamples)
    if json_:
        tell_json(found)
    else:
        tables.print_comparison(found)


@app.command("published")
def published_command(
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="A suite by name.")], json_: Json = False
) -> None:
    """The numbers that papers printed for a suite, with their sources."""
    from benchmarks.leaderboard import published
    from benchmarks.report import tables
    from benchmarks.suites import suite as suites

    over = suites.load_suite(suite, None)
    rows = published.published_rows(over)
    if json_:
        tell_json({"suite": suite, "same_protocol": over.same_protocol, "rows": rows})
    else:
        tables.print_published(over, rows, published.tolerances())


@app.command("doctor")
def doctor_command(profile: ProfileName = None, json_: Json = False) -> None:
    """Which metrics run here, and what the others lack. Exit 6 where --profile lacks something."""
    from benchmarks.metrics import doctor
    from lucidflux_data.errors import VerificationError

    found = doctor.diagnose(profile)
    if json_:
        tell_json(found)
    else:
        for metric in found["metrics"].values():
            typer.echo(f"{metric['status']:8} {metric['sentence']}")
        typer.echo(f"gpus: {', '.join(found['gpus']) or 'none'}")
        typer.echo("\n".join([found["licence"], *doctor.recipe(found)]))
    lacking = [name for name, metric in found["metrics"].items() if metric["status"] != "ready"]
    if profile and lacking:
        raise VerificationError(f"{len(lacking)} metrics of {profile} cannot run here: {', '.join(lacking)}")
