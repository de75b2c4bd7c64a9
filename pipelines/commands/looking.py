"""Commands of `lucidflux-data` that look at a run and change nothing of its set: explain, diff, what-if, pages."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from lucidflux_data.escapes import show
from lucidflux_data.selection.options import cut_settings, select_settings
from pipelines.commands.options import (
    Json,
    MinSide,
    RunFolder,
    Set,
    TopFraction,
    TopK,
    Wait,
    Where,
    settle,
    writing,
)
from pipelines.commands.telling import again, guide, rules_in_force, say_table, tell, tell_json
from pipelines.execution.human import human_bytes

if TYPE_CHECKING:
    from lucidflux_data.audit.explain import Check, ExplainedImage, Standing
    from lucidflux_data.audit.what_if import Tried

app = typer.Typer()


@app.command("explain")
def explain_command(
    run: RunFolder,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="Path, uri, key, sha256, name in the source, or member of a shard.")
    ],
    json_: Json = False,
) -> None:
    """Why an image is, or is not, in the set: each rule beside its limit, its rank, and where it lies."""
    from lucidflux_data.audit.explain import explain
    from lucidflux_data.selection.config import FilterConfig
    from lucidflux_data.selection.run import read_run
    from lucidflux_data.storage.folder import Folder

    settle(run)
    found = explain(Folder(run), image)
    if json_:
        config = FilterConfig.model_validate(read_run(Folder(run))["config"])
        rows = [{**each["row"], **{name: value for name, value in each.items() if name != "row"}} for each in found]
        tell_json({"rows": rows, "rules": rules_in_force(config)})
        return
    for each in found:
        _say_explained(each)
    guide(then=[(f"lucidflux-data what-if {quote(run)}", "what other thresholds would keep"),
                (f"lucidflux-data select {quote(run)} --set rules.NAME=VALUE", "other rules")])  # fmt: skip


def _say_explained(found: ExplainedImage) -> None:
    from lucidflux_data.selection.records import WHAT_IT_MEANS

    row = found["row"]
    reason = row["reason"]
    verdict = "kept" if row["keep"] else f"not kept: {reason}"
    typer.echo(show(row["uri"]))
    typer.echo(show(f"  {verdict}" + (f" ({WHAT_IT_MEANS[reason]})" if reason else "")))
    further = found["fails"]
    if len(further) > 1:
        typer.echo(show(f"  rules against it: {', '.join(further)}"))
    about = [["  key", str(row["key"])]]
    if row["width"] and row["height"]:
        size = f"{row['width']}x{row['height']} px, {human_bytes(row['bytes'] or 0)} of {row['format']}"
        about.append(["  image", size + (f" ({row['flags']})" if row["flags"] else "")])
    place = found["place"]
    if place:
        about.append(
            ["  shard", f"{place['shard']}: {place['member']}, {place['size']:,} bytes at {place['offset']:,}"]
        )
    elif row["offset"] >= 0:
        about.append(["  in its tar", f"at byte {row['offset']:,}"])
    about += [["  the same bytes", uri] for uri in found["same_bytes"]]
    about += [["  near-duplicates", f"group {row['group']}"]] * bool(row["group"])
    say_table(about)
    if row["width"]:
        say_table([_say_check(check) for check in found["checks"]], right=(2,))
    if found["standing"] and row["width"]:
        say_table([_say_standing(found["standing"])])


def _say_check(check: Check) -> list[str]:
    """Rule, whether it passes, the value, the limit and how far from it."""
    mark = {True: "ok", False: "FAILS", None: "not known"}[check["passes"]]
    value = "-" if check["value"] is None else f"{check['value']:.6g}"
    limit = check["limit"] if isinstance(check["limit"], str) else f"limit {check['limit']:g}"
    if check["distance"] is not None:
        limit += f", {abs(check['distance']):.4g} {'inside' if check['distance'] >= 0 else 'outside'}"
    return [f"  {check['rule']}", mark, "" if isinstance(check["limit"], str) else value, limit]


def _say_standing(standing: Standing) -> list[str]:
    cut = f"the cut keeps {standing['cut']:,} of {standing['of']:,} scored"
    if standing["cut_score"] is not None:
        cut += f", down to {standing['cut_score']:.6g}"
    if standing["score"] is None or standing["rank"] is None or standing["distance"] is None:
        return [f"  {standing['metric']}", f"no score, so no rank; {cut}"]
    side = "inside" if standing["rank"] <= standing["cut"] else "outside"
    place = f"{standing['score']:.6g}, rank {standing['rank']:,} of {standing['of']:,}, "
    return [f"  {standing['metric']}", f"{place}{abs(standing['distance']):.4g} {side} the cut; {cut}"]


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
    found = compare(Folder(first), Folder(second))
    if json_:
        tell_json(found)
        return
    kept = found["kept"]
    typer.echo(show(f"A = {first}\nB = {second}", lines=True))
    rows = [[f"kept in {name}", f"{kept[which]:,}", ""]
            for name, which in (("A", "first"), ("B", "second"), ("both", "both"))]  # fmt: skip
    rows += [["added in B", f"{count:,}", f"{reason} in A"] for reason, count in found["added"].items()]
    rows += [["gone from B", f"{count:,}", f"{reason} in B"] for reason, count in found["removed"].items()]
    rows.append(["other bytes in B", f"{found['changed']:,}", ""])
    say_table(rows, right=(1,))
    moved = [[f"mean {name}", f"{score['mean_first']:.4g}", f"-> {score['mean_second']:.4g}, Kolmogorov-Smirnov "
              f"distance {score['ks']:.3f}"] for name, score in found["scores"].items()]  # fmt: skip
    say_table(moved, right=(1,))
    guide(then=[(f"lucidflux-data explain {quote(second)} NAME", "why an image is, or is not, in it")])


@app.command("what-if")
def what_if_command(
    ctx: typer.Context,
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
            _tell_tried(tried, again(ctx, "select"))
        return
    rows = what_if(folder, config)
    if json_:
        tell_json({"rows": rows})
        return
    for row in rows:
        mark = "  <- now" if row["now"] else ""
        setting = f"{row['setting']}={row['value']}"
        typer.echo(show(f"{setting:36} survivors {row['survivors']:>9,}  kept {row['kept']:>9,}{mark}"))
    guide(then=[(f"lucidflux-data what-if {quote(run)} --set NAME=VALUE", "several settings at once"),
                (f"lucidflux-data select {quote(run)} --set NAME=VALUE", "take them")])  # fmt: skip


def _tell_tried(tried: Tried, take: str) -> None:
    """A line for each count that there is, now and then. `take`: the command that takes the settings."""
    now, then = tried["now"], tried["then"]
    typer.echo(show(f"{'':24}{'now':>12}{'then':>12}  with {', '.join(tried['settings'])}"))
    if then is None:
        scores, measures = tried["scores_to_compute"], tried["measures_to_take"]
        least = f"at least {tried['kept']:,}" if tried["kept"] else "not known yet"
        lacking = f"{scores:,} have no score and {measures:,} lack another measure"
        survivors = f"of {tried['survivors']:,} survivors of the rules {lacking}"
        typer.echo(show(f"{'kept':24}{now['kept']:>12,}  {least}: {survivors}"))
        guide(then=[(take, "computes them")])
        return
    lines = {"kept": (now["kept"], then["kept"])}
    gone = [{**each["failed"], **each["rejected"]} for each in (now, then)]
    lines |= {reason: (gone[0].get(reason, 0), gone[1].get(reason, 0)) for reason in {**gone[0], **gone[1]}}
    for name, (before, after) in lines.items():
        change = f"  {after - before:+,}" if after != before else ""
        typer.echo(show(f"{name:24}{before:>12,}{after:>12,}{change}"))
    guide(then=[(take, "takes them")])


@app.command("report")
def report_command(run: RunFolder, wait: Wait = 0, json_: Json = False) -> None:
    """Write report.html again."""
    from lucidflux_data.audit import report
    from lucidflux_data.storage.folder import Folder

    settle(run)
    folder = Folder(run)
    with writing(run, wait):
        folder.publish("report.html", report.make_report(folder))
    page = folder.path("report.html")
    tell({"report": page}, json_, [page], [(f"lucidflux-data explore {quote(run)}", "thresholds by eye")])


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
    place = folder.path(PAGE)
    then = [(f"lucidflux-data select {quote(run)} --set NAME=VALUE", "as the page says it for its sliders")]
    tell({"page": place, **made, "bytes": len(page)}, json_, [place], then)
