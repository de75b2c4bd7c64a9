"""Do two checkouts make the same bytes? `python -m benchmarks.throughput.equal_bytes CHECKOUT [--images PHOTOS]`

Each runs the demo, and `filter` and `synthesize` on the photos where there are any, into folders of the same path.
Every file is compared: tables, shards, indexes, manifests byte by byte; boards, method.json and tables of the bench
without their seconds and environment. A table whose bytes differ and whose schema, rows and values do not is listed
apart. What is not compared is listed with the reason. `--ours OTHER` compares two other checkouts. Exits 1 where a file
differs or is missing.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parents[2]
SKIPPED = {
    "*/events/*": "times of what happened",
    "*/run.json": "names the versions that made it",
    "*/environment.json": "the environment",
    "*.html": "a page: its words may change",
    "*.md": "a page: its words may change",
    "*.tex": "a page: its words may change",
    "*/model/*": "training is compared by its own tests",
    "*/cache/*": "scores by key of the environment",
}
TIMES = ("seconds", "wall_seconds", "seconds_per_image", "created")
NOT_COMPARED = (*TIMES, "environment", "signature", "versions", "commit")  # keys and columns of the bench
BENCH_FILES = ("leaderboard.json", "board.json", "method.json")


def make_outputs(tree: Path, place: Path, images: Path | None) -> None:
    """Runs the commands of one checkout into `place`."""
    _run(tree, "lucidflux_main", "demo", "--executor", "local", "--out", str(place / "demo"))
    if images is not None:
        run, local = str(place / "run"), ("--executor", "local")
        choice = ("--preset", "demo", "--set", "decode.max_pixels=100000000", "--top-fraction", "0.5")
        _run(tree, "data_main", "filter", str(images), "--out", run, *choice, *local)
        _run(tree, "data_main", "synthesize", run, "--out", str(place / "pairs"), "--size", "256", *local)


def _run(tree: Path, entry: str, *words: str) -> None:
    code = f"import sys; sys.argv[0] = 'lucidflux'; import cli; cli.{entry}()"
    environment = os.environ | {"PYTHONPATH": str(tree), "XDG_CACHE_HOME": str(tree / ".cache-equal-bytes")}
    subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def compare_folders(ours: Path, theirs: Path) -> tuple[int, list[str], list[str], Counter[str]]:
    """Files with equal contents, names of tables with equal rows in other bytes, names of those that differ or that one
    side lacks, and the skipped by reason."""
    names = sorted(
        {str(path.relative_to(side)) for side in (ours, theirs) for path in side.rglob("*") if path.is_file()}
    )
    equal, same_rows, different, skipped = 0, list[str](), list[str](), Counter[str]()
    for name in names:
        reason = next((why for pattern, why in SKIPPED.items() if fnmatch.fnmatch(f"/{name}", pattern)), None)
        if reason is not None:
            skipped[reason] += 1
        elif not ((ours / name).is_file() and (theirs / name).is_file()):
            different.append(name)
        elif _content(ours / name) == _content(theirs / name):
            equal += 1
        elif name.endswith(".parquet") and _rows(ours / name).equals(_rows(theirs / name)):
            same_rows.append(name)
        else:
            different.append(name)
    return equal, same_rows, different, skipped


def _content(path: Path) -> object:
    return _compared(json.loads(path.read_text())) if path.name in BENCH_FILES else path.read_bytes()


def _compared(value: object) -> object:
    """Without the keys that two runs never have alike, at any depth."""
    if isinstance(value, dict):
        return {name: _compared(inner) for name, inner in value.items() if name not in NOT_COMPARED}
    return [_compared(inner) for inner in value] if isinstance(value, list) else value


def _rows(path: Path) -> pa.Table:
    table = pq.read_table(path)
    return table.drop_columns([name for name in NOT_COMPARED if name in table.column_names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--ours", type=Path, default=HERE)
    given = parser.parse_args()
    images = given.images.resolve() if given.images else None
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "outputs"
        for number, tree in enumerate((given.ours.resolve(), given.checkout.resolve())):
            place.mkdir()
            make_outputs(tree, place, images)
            shutil.move(place, Path(temporary) / f"tree-{number}")
        equal, same_rows, different, skipped = compare_folders(Path(temporary) / "tree-0", Path(temporary) / "tree-1")
    for reason, count in sorted(skipped.items()):
        print(f"not compared: {count} files ({reason})")
    for name in same_rows:
        print(f"equal rows in other bytes: {name}")
    for name in different:
        print(f"differs: {name}")
    print(f"{equal} files are equal, {len(same_rows)} tables have equal rows, {len(different)} differ")
    sys.exit(1 if different or not equal else 0)


if __name__ == "__main__":
    main()
