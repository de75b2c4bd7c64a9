"""Measures what docs/performance.md states, as ratios inside one run: `python benchmarks/throughput.py TOPIC --help`.

Contenders take turns on each image and the median of the paired ratios is given. Scripts named `throughput*` are
exempt from the import rules: they measure every layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # not this folder, whose statistics.py is not the library's

import typer  # noqa: E402

from benchmarks.throughput import curation as throughput_curation
from benchmarks.throughput import filter as throughput_filter
from benchmarks.throughput import held_out as throughput_held_out
from benchmarks.throughput import listing as throughput_listing
from benchmarks.throughput import restore as throughput_restore
from benchmarks.throughput import synthesize as throughput_synthesize
from benchmarks.throughput import train as throughput_train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(throughput_curation.app)
app.add_typer(throughput_filter.app)
app.add_typer(throughput_held_out.app)
app.add_typer(throughput_listing.app)
app.add_typer(throughput_restore.app)
app.add_typer(throughput_synthesize.app)
app.add_typer(throughput_train.app)

if __name__ == "__main__":
    app()
