"""Measures what docs/performance.md states, as ratios inside one run: `python benchmarks/throughput.py TOPIC --help`.

Contenders take turns on each image and the median of the paired ratios is given. Scripts named `throughput*` are
exempt from the import rules: they measure every layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder, whose statistics.py is not the library's

import typer  # noqa: E402

from benchmarks import (  # noqa: E402
    throughput_curation,
    throughput_filter,
    throughput_held_out,
    throughput_listing,
    throughput_restore,
    throughput_synthesize,
    throughput_train,
)

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
