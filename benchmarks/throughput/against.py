"""Two checkouts measured by their own scripts, in turns: what `--against CHECKOUT` of every topic does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.throughput.timing import paired_ratio

HERE = Path(__file__).resolve().parents[2]
SCRIPTS = "benchmarks/throughput"
# Modules of topics that 0.5.0 and before did not have, or had in another form.
OF_LATER = {
    "near-duplicates": "benchmarks.throughput.large.near_duplicates",
    "selection": "benchmarks.throughput.large.tables",
    "verify": "benchmarks.throughput.large.verify",
}
Figures = dict[str, float]


def compare_checkouts(topic: list[str], checkout: Path, rounds: int) -> dict[str, object]:
    """Each figure that both trees print: its value by round in either, and the median of the paired ratios.

    The trees take turns in processes of their own (A B, then B A, ...), each with its own folder first on the path, so
    that neither the one that warms the disk nor one that has warmed up gains. `topic` is what follows the name of the
    script, as ["selection", "--rows", "100000"]. Raises FileNotFoundError where the checkout has no such script.
    """
    found: dict[Path, list[Figures]] = {HERE: [], checkout: []}
    for number in range(rounds):
        for tree in (HERE, checkout) if number % 2 == 0 else (checkout, HERE):
            found[tree].append(measure_tree(tree, topic))
    shared = [name for name in found[HERE][0] if all(name in figures for tree in found.values() for figures in tree)]
    if not shared:
        raise ValueError(f"{checkout}: no figure has the name of one of ours")
    ours = {name: [figures[name] for figures in found[HERE]] for name in shared}
    theirs = {name: [figures[name] for figures in found[checkout]] for name in shared}
    return {
        "topic": " ".join(topic),
        "rounds": rounds,
        "here / there": {name: paired_ratio(ours[name], theirs[name]) for name in shared if min(theirs[name]) > 0},
        "here": ours,
        "there": theirs,
    }


def measure_tree(tree: Path, topic: list[str]) -> Figures:
    """Runs the topic of one checkout. Returns its numbers by dotted name."""
    module = "benchmarks.throughput.main" if (tree / SCRIPTS).is_dir() else "benchmarks.throughput"
    if not (tree / (module.replace(".", "/") + ".py")).is_file():
        raise FileNotFoundError(f"{tree}: no {module.replace('.', '/')}.py")
    with tempfile.TemporaryDirectory() as place:
        out, arguments = Path(place) / "figures.json", topic
        if topic[0] in OF_LATER and not (tree / SCRIPTS / "large").is_dir():
            tree, module, arguments = _with_our_scripts(tree, Path(place) / "tree"), OF_LATER[topic[0]], topic[1:]
        command = [sys.executable, "-m", module, *arguments, "--out", str(out)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        return _numbers(json.loads(out.read_text()))


def _with_our_scripts(tree: Path, copy: Path) -> Path:
    """A checkout from before there were some of the topics, as links, with the scripts of this tree: they measure what
    it does."""
    (copy / "benchmarks").mkdir(parents=True)
    for path in tree.iterdir():
        if path.name not in ("benchmarks", ".git"):
            (copy / path.name).symlink_to(path)
    for path in (tree / "benchmarks").iterdir():
        if path.name != "throughput":
            (copy / "benchmarks" / path.name).symlink_to(path)
    (copy / SCRIPTS).symlink_to(HERE / SCRIPTS)
    return copy


def _numbers(value: object, name: str = "") -> Figures:
    if isinstance(value, dict):
        inner = [_numbers(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
        return {key: number for figures in inner for key, number in figures.items()}
    return {name: float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else {}
