"""The output of a command: facts with human units, what to look at and what to do next; or one JSON object."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from lucidflux_data.escapes import show
from pipelines.execution.human import human_bytes, human_seconds

if TYPE_CHECKING:
    from lucidflux_data.config import Changes, Section
    from lucidflux_data.selection.config import FilterConfig
    from lucidflux_data.storage.folder import Folder

TRAINS = "trains on them; with --model tiny --config debug instead the plumbing, on any machine"
LABELS = {"wall_hours": "wall time", "core_hours": "core time", "gpu_hours": "GPU time", "wall_seconds": "phases"}
COUNTED = ("failed", "rejected", "ignored_by", "left_out")  # by reasons, one of which is too_many_bytes
NO_RULES = ("decode", "measures", "shards", "storage", "workers")  # sections that decide nothing of a selection


def tell(
    result: Mapping[str, object], json_: bool, look_at: Iterable[str] = (), then: Iterable[tuple[str, str]] = ()
) -> None:
    """The outcome: one JSON object with full numbers, or a line for each fact and what comes after as `guide`."""
    if json_:
        tell_json(result)
        return
    warnings = _take_warnings()
    outcome = {**result, **({"warnings": len(warnings)} if warnings else {})}  # each was said
    following = outcome.pop("next", None)
    for name, value in outcome.items():
        typer.echo(show(f"{LABELS.get(name, name)}: {say_value(name, value)}"))
    guide(look_at, [*([(str(following), "")] if following else []), *then])


def tell_json(result: Mapping[str, object], indent: int | None = None) -> None:
    """One JSON object, with all that was warned of under `warnings`."""
    typer.echo(json.dumps({**result, "warnings": _take_warnings()}, indent=indent))


def guide(look_at: Iterable[str] = (), then: Iterable[tuple[str, str]] = ()) -> None:
    """`look at:` with pages or files, `next:` with commands and what each is for. For people: never beside JSON."""
    for title, lines in (("look at:", [(place, "") for place in look_at]), ("next:", list(then))):
        for number, (line, why) in enumerate(lines):
            lead = title if number == 0 else ""
            typer.echo(show(f"{lead:9}{line}" + (f"   # {why}" if why else "")))


def _take_warnings() -> list[str]:
    from pipelines.execution.progress import take_warnings

    return take_warnings()


def say_value(name: str, value: object) -> str:
    """A value in the unit that its name tells: bytes, hours, seconds; other numbers with their thousands apart."""
    if isinstance(value, dict):
        return ", ".join(f"{inner} {say_value(f'{name}.{inner}', each)}" for inner, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(say_value(name, each) for each in value) or "none"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    words = [] if name.partition(".")[0] in COUNTED else name.replace(".", "_").split("_")
    if "bytes" in words:
        return human_bytes(value)
    if "hours" in words:
        return human_seconds(3600 * value)
    if "seconds" in words or words[-1:] == ["s"]:
        return human_seconds(value)
    return f"{value:,}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def say_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows in columns as wide as their longest cell; the last column wraps at the width of the terminal. `right`: the
    columns that are numbers."""
    if not rows:
        return
    shown = [[show(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]) - 1)]
    left = sum(widths) + 2 * len(widths)
    room = max(20, shutil.get_terminal_size((80, 24)).columns - left - 1)
    for row in shown:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        typer.echo(show("  ".join([*cells, lines[0]]).rstrip()))
        for line in lines[1:]:
            typer.echo(show(f"{'':{left}}{line}"))


def rules_in_force(config: FilterConfig) -> dict[str, object]:
    """Every setting that decides which images are kept, by its name; what is off is left out."""
    rules = {name: value for name, value in _dotted(config).items() if name.partition(".")[0] not in NO_RULES}
    rules = {name: value for name, value in rules.items() if not name.startswith("iqa.") or name == "iqa.metric"}
    if config.iqa.metric == "none":
        rules = {name: value for name, value in rules.items() if not name.startswith("cut.")}
    if not config.select.forbid:
        rules.pop("select.forbid_missing", None)
    return {name: value for name, value in rules.items() if value not in (None, (), "")}


def _dotted(config: Section) -> dict[str, object]:
    from lucidflux_data.config import dotted

    return dotted(config.model_dump())


def say_rules(config: FilterConfig, changed: Changes, since: str) -> None:
    """The rules in force, a row each, with what a changed one was. `since`: as what; "the run", "preset demo"."""
    typer.echo("rules in force:")
    rows = {name: [f"  {name}", _setting(value), ""] for name, value in rules_in_force(config).items()}
    for name, (before, now) in changed.items():
        rows.setdefault(name, [f"  {name}", _setting(now), ""])[2] = f"{_setting(before)} in {since}"
    say_table(list(rows.values()), right=(1,))
    if not changed:
        typer.echo(show(f"nothing changed from {since}"))


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def again(ctx: typer.Context, verb: str | None = None, **other: object) -> str:
    """The command line of `ctx` as a shell takes it; of another `verb` beside it: with those of its options that this
    one has, too. `other`: values of parameters in place of those that were given, None for what is left out."""
    assert ctx.parent is not None, "a verb stands below a program"
    group: Any = ctx.parent.command
    target = group.commands[verb] if verb else ctx.command
    takes = {parameter.name for parameter in target.params}
    given = {
        parameter.name: ctx.params[parameter.name]
        for parameter in ctx.command.params
        if getattr(ctx.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    }
    values = {name: value for name, value in {**given, **other}.items() if name in takes and value is not None}
    words = [ctx.parent.command_path, str(target.name)]
    for parameter in sorted(target.params, key=lambda each: each.param_type_name != "argument"):
        if parameter.name in values:
            words += _as_words(parameter, values[parameter.name])
    return " ".join(words)


def _as_words(parameter: Any, value: Any) -> list[str]:
    """An argument, or an option with its value, each time that it is given."""
    many = value if isinstance(value, (list, tuple)) else [value]
    each = [quote(str(getattr(one, "value", one))) for one in many]
    if parameter.param_type_name == "argument":
        return each
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    return [word for one in each for word in (max(parameter.opts, key=len), one)]


def tell_packed(folder: Folder, summary: dict[str, object], json_: bool) -> None:
    """The summary of a run that is packed."""
    run = quote(str(folder))
    tell(
        summary,
        json_,
        [folder.path("report.html")],
        [
            (f"lucidflux-data explain {run} NAME", "why an image is, or is not, in the set"),
            (f"lucidflux-data select {run} --set NAME=VALUE", "other rules, nothing measured again"),
            (f"lucidflux-data synthesize {run} --out PAIRS", "LQ/HQ pairs of it"),
        ],
    )


def tell_selection(
    outcome: dict[str, object], base: FilterConfig, config: FilterConfig, then: list[tuple[str, str]], json_: bool
) -> None:
    """The outcome of a selection with the rules in force and what changed of those that the run had."""
    from lucidflux_data.config import changes_between

    changed = changes_between(base, config)
    if json_:
        tell_json({**outcome, "rules": rules_in_force(config), "changed": changed})
        return
    say_rules(config, changed, "the run before")
    tell(outcome, False, then=then)
