"""`lucidflux weights ...`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lucidflux_data.options import Json, tell

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Weight files: convert, verify, compare.")


@app.callback()
def _group() -> None:
    """A group, also while it has a single command."""


@app.command("parity")
def parity_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A golden folder: config, weights, tensors.")],
    json_: Json = False,
) -> None:
    """Recompute golden tensors with the product's own classes; exit 6 where an error is over 1e-4."""
    from lucidflux_data.errors import VerificationError
    from lucidflux_model.parity import TOLERANCE, parity

    errors = parity(folder)
    tell({name: error if json_ else f"{error:.1e}" for name, error in errors.items()}, json_)
    over = [name for name, error in errors.items() if not error <= TOLERANCE]
    if over:
        raise VerificationError(
            f"{len(over)} of {len(errors)} tensors differ by more than {TOLERANCE}: {', '.join(over)}"
        )
