"""What a mistyped option is answered with: the nearest one, as for a mistyped command."""

from __future__ import annotations

import difflib
from typing import Any

from typer.core import TyperGroup

HELP = {"help_option_names": ["-h", "--help"]}  # context settings, which commands inherit


class SpellingGroup(TyperGroup):
    """The top of a command line: an option that nobody knows, of whichever command, is answered with the nearest."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _suggest_option(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            _suggest_option(error)
            raise


def _suggest_option(error: Any) -> None:
    """Changes the message of click's NoSuchOption, whose class stands in another module from version to version."""
    if type(error).__name__ != "NoSuchOption" or error.ctx is None:
        return
    known = [name for parameter in error.ctx.command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    options = [*(name for name in known if name.startswith("-")), "--help"]
    near = difflib.get_close_matches(error.option_name, options, n=1, cutoff=0.6)
    error.possibilities = None
    if near:
        error.message = f"No such option: {error.option_name}. Did you mean {near[0]}?"
