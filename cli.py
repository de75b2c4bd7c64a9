"""The two commands, `lucidflux` and `lucidflux-data`: mounts the command groups, turns errors into exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Annotated


def _say_unfinished(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while the modules below are read, which takes half a second, is no traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    os.write(2, b"interrupted: repeat the command to resume\n")
    os._exit(5)  # as of Interrupted


sys.excepthook = _say_unfinished
# ruff: noqa: E402  (imports that come after it)

import typer

from lucidflux_data.errors import Interrupted, LucidFluxError
from lucidflux_data.escapes import show
from pipelines.commands.bench import app as bench_app
from pipelines.commands.filter import app as data_app
from pipelines.commands.looking import app as look_app
from pipelines.commands.options import OUT, ExecutorKind, ExecutorName, Json, NumCpus, Wait, writing
from pipelines.commands.pairs import app as pairs_app
from pipelines.commands.restore import app as model_app
from pipelines.commands.runs import app as govern_app
from pipelines.commands.sets.deciding import app as deciding_app
from pipelines.commands.sets.publish import app as publish_app
from pipelines.commands.telling import tell
from pipelines.commands.terminal import HELP, INTERRUPTED, SpellingGroup, run_guarded
from pipelines.commands.train import app as train_app
from pipelines.commands.voting.vote import app as vote_app
from pipelines.commands.weights import app as weights_app

app = typer.Typer(
    name="lucidflux",
    cls=SpellingGroup,
    context_settings=HELP,
    no_args_is_help=True,
    help="Restoration in the LucidFlux line.",
)

# Without a name, the commands of a group stand beside the others.
data_app.add_typer(deciding_app)
data_app.add_typer(pairs_app)
data_app.add_typer(look_app)
data_app.add_typer(govern_app)
data_app.add_typer(publish_app)
app.add_typer(model_app)
app.add_typer(train_app)
app.add_typer(weights_app, name="weights")
bench_app.add_typer(vote_app)
app.add_typer(bench_app, name="bench")


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("lucidflux"))
        raise typer.Exit


@app.callback()
@data_app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("doctor")
@data_app.command("doctor")
def doctor_command(
    metric: Annotated[list[str] | None, typer.Argument(metavar="[METRIC]...", help="Test these instead.")] = None,
    images: Annotated[Path | None, typer.Option(help="Photos of 256 px and more; the package's otherwise.")] = None,
    json_: Json = False,
) -> None:
    """What this machine can run, which metrics are ready, and what is missing for the others.

    Of METRICs: does an image's score depend on the other images in its batch? Which way do blur, noise and JPEG move
    it? Do devices agree?
    """
    from pipelines.commands.doctor import run_doctor

    run_doctor(metric, images, json_)


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(*OUT, help="Folder for photos, run and report.")] = Path("demo"),
    num_cpus: NumCpus = None,
    executor: ExecutorKind = ExecutorName.local,
    full: Annotated[bool, typer.Option("--full", help="Train and restore with a tiny model too; needs torch.")] = False,
    wait: Wait = 0,
    json_: Json = False,
) -> None:
    """Filter twelve photos, and broken versions of them, into verified shards, make pairs, rank methods."""
    from pipelines.demo.data import run_demo

    with writing(str(out), wait, new=True):
        made = run_demo(out.absolute(), num_cpus, executor, full)
    run = quote(f"{out}/run")
    pages = [str(made[name]) for name in ("report", "pairs_view", "leaderboard", "training_report") if name in made]
    tell(made, json_, pages, [
        (f"lucidflux-data explain {run} planted-too_blurry.png", "why it is not in the set"),
        (f"lucidflux-data explore {run}", "thresholds by eye"),
        ("lucidflux-data filter PHOTOS --out RUN --preset demo", "photos of your own"),
    ])  # fmt: skip


def lucidflux_main() -> None:
    # torch's threads otherwise spin while they wait, which on busy cores makes small models 50 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP advises, at every start, against what makes it exact
    _main(app)


def data_main() -> None:
    _main(data_app)


TYPER_INTERRUPTED = 130  # what typer makes of Ctrl-C


def _main(command: Callable[[], None]) -> None:
    """Runs a typer app. What we raise on purpose is one sentence; anything else is a defect, said as such."""
    try:
        run_guarded(command)
    except LucidFluxError as error:
        if not (INTERRUPTED.is_set() and type(error) is Interrupted):  # Ctrl-C was answered when it came
            print(f"error: {show(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == TYPER_INTERRUPTED:
            sys.exit(Interrupted.exit_code)
        raise
    except KeyboardInterrupt:  # before typer answers for it
        sys.exit(Interrupted.exit_code)
    except Exception as error:
        if os.environ.get("LUCIDFLUX_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            print("error: no space left on the device: free some, then repeat the command to resume", file=sys.stderr)
            sys.exit(Interrupted.exit_code)
        message = str(error).splitlines()[0] if str(error) else ""
        print(
            f"internal error, please report it ({type(error).__name__}: {show(message)}); "
            "LUCIDFLUX_DEBUG=1 shows the traceback",
            file=sys.stderr,
        )
        sys.exit(1)
