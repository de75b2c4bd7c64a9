"""Measures what docs/performance.md states, as ratios inside one run.

    python -m benchmarks.throughput.main TOPIC --help

Contenders take turns on each image, and the median of the paired ratios is given. This folder is exempt from the import
rules: it measures every layer.
"""

from __future__ import annotations

import typer

from benchmarks.throughput import curation, filter, held_out, listing, restore, synthesize, train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(curation.app)
app.add_typer(filter.app)
app.add_typer(held_out.app)
app.add_typer(listing.app)
app.add_typer(restore.app)
app.add_typer(synthesize.app)
app.add_typer(train.app)

if __name__ == "__main__":
    app()
