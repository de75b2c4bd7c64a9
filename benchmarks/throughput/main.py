"""Measures what docs/performance.md states, as ratios inside one run.

    python -m benchmarks.throughput.main TOPIC --help
    python -m benchmarks.throughput.main TOPIC ... --against CHECKOUT [--rounds-against N]

Contenders take turns on each image, and the median of the paired ratios is given. With `--against`, the topic is
measured in this tree and in another checkout, in turns. This folder is exempt from the import rules: it measures every
layer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import typer

from benchmarks.throughput import filter, first_minutes, growth, restore, synthesize, train
from benchmarks.throughput.against import compare_checkouts
from benchmarks.throughput.large import listing, near_duplicates, tables, verify
from benchmarks.throughput.parts import tiles, vectors
from benchmarks.throughput.quality import curation, held_out
from benchmarks.throughput.timing import tell

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(curation.app)
app.add_typer(tiles.app)
app.add_typer(filter.app)
app.add_typer(first_minutes.app)
app.add_typer(growth.app)
app.add_typer(held_out.app)
app.add_typer(listing.app)
app.add_typer(restore.app)
app.add_typer(synthesize.app)
app.add_typer(train.app)
app.add_typer(vectors.app)
app.add_typer(near_duplicates.app)
app.add_typer(tables.app)
app.add_typer(verify.app)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds-against", type=int, default=5)
    parser.add_argument("--out", type=Path)
    own, topic = parser.parse_known_args(arguments)
    if own.against is None:
        app(arguments)
        return
    try:
        tell(compare_checkouts(topic, own.against.resolve(), own.rounds_against), own.out)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"Not compared: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
