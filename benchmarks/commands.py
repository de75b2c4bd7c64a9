"""The verbs of `lucidflux bench` that need no executor: suites, prepare, compare, published, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lucidflux_data.options import Json, tell

SuiteName = Annotated[str | None, typer.Option("--suite", metavar="NAME", help="A suite by name; see `bench suites`.")]
SuitesDir = Annotated[Path | None, typer.Option(help="Where prepared suites are; LUCIDFLUX_SUITES by default.")]
ProfileName = Annotated[str | None, typer.Option(metavar="NAME", help="lucidflux-paper, seesr-paper or offline.")]

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("suites")
def suites_command(suites_dir: SuitesDir = None, json_: Json = False) -> None:
    """List the suites, and which are prepared here."""
    from benchmarks import suites

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
    from benchmarks import prepare, suites

    folder = suites.suites_folder(suites_dir)
    tell(prepare.prepare(suites.load_suite(name, folder), from_, folder / name), json_)
