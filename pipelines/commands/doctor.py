"""`lucidflux doctor`: what this machine can run, and what is missing for what it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from packaging.requirements import Requirement

from lucidflux_data.errors import ConfigError
from pipelines.commands.telling import guide, say_table, tell, tell_json
from pipelines.execution.executor import available_cpus

if TYPE_CHECKING:
    from benchmarks.metrics.doctor import MetricState

NAME = "lucidflux"


class MachineReport(TypedDict):
    lucidflux: str  # version
    python: str  # version
    cpus: int  # that this process may use
    memory_gb: float
    gpus: list[str]  # name and memory of each
    extras: dict[str, str]  # what each lacks, or "ready"
    clipiqa_weights: str  # their file, or what to do where there is none
    metrics: dict[str, str]  # whether each runs here: ready, or what it lacks


def examine() -> MachineReport:
    """Versions, cores, memory, GPUs, and what each extra lacks ("ready": nothing). Loads torch where it is there."""
    return {
        "lucidflux": importlib.metadata.version(NAME),
        "python": platform.python_version(),
        "cpus": available_cpus(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": _gpus(),
        "extras": {extra: ", ".join(sorted(lacking(extra))) or "ready" for extra in extras()},
        "clipiqa_weights": _clipiqa_weights(),
        "metrics": _metrics(),
    }


def _metrics() -> dict[str, str]:
    from benchmarks.metrics.doctor import diagnose

    return {name: _say_state(name, state) for name, state in diagnose(None)["metrics"].items()}


def _say_state(name: str, state: MetricState) -> str:
    """ready, the command that brings what is missing, or why it does not run."""
    if state["status"] == "package":
        return f"needs packages: pip install {' '.join(map(repr, state['packages']))}"
    if state["status"] == "weights":
        return f"needs weights: lucidflux weights download {name}"
    return state["sentence"].removeprefix(f"{name} is ")


def run_doctor(metrics: list[str] | None, images: Path | None, json_: bool) -> None:
    """The machine; or, where metrics are named, what tests of them say. ConfigError where OpenCV cannot be loaded."""
    if metrics:
        _test_metrics(metrics, images, json_)
        return
    found = examine()
    if json_:
        tell_json({**found})
    else:
        tables = ("extras", "metrics")
        tell({name: value for name, value in found.items() if name not in tables}, False)
        for name, rows in ((name, found[name]) for name in tables):  # type: ignore[literal-required]
            say_table([[f"{name.removesuffix('s')} {key}", value] for key, value in rows.items()])
        guide(then=[
            ("lucidflux weights download METRIC", "fetches what a metric lacks"),
            ("lucidflux doctor METRIC", "tests one: batches, directions, devices"),
            ("lucidflux bench doctor --profile NAME", "of one profile, and the way into a closed network"),
        ])  # fmt: skip
    check_opencv()


def _test_metrics(metrics: list[str], images: Path | None, json_: bool) -> None:
    from pipelines.filter.repair import examine_metrics

    cards = examine_metrics(metrics, images)
    if json_:
        tell_json(cards)
        return
    for name, card in cards.items():
        say_table(
            [[name, key, f"{value:.3g}" if isinstance(value, float) else str(value)] for key, value in card.items()]
        )
    guide(then=[(f"lucidflux-data plan PHOTOS --iqa {metrics[0]}", "what a cut by it takes and keeps")])


def extras() -> list[str]:
    """Those that a user installs."""
    named = importlib.metadata.metadata(NAME).get_all("Provides-Extra") or []
    return sorted(set(named) - {"dev", "all"})


def lacking(extra: str) -> set[str]:
    """Requirements of an extra that are not installed, or in another version, as pip would take them."""
    found = set()
    for text in importlib.metadata.requires(NAME) or []:
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == NAME:
            found |= {name for inner in requirement.extras for name in lacking(inner)}
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.add(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            found.add(f"{requirement.name}{requirement.specifier} (here {installed})")
    return found


def check_opencv() -> None:
    """ConfigError where OpenCV cannot be loaded, or two builds of different versions wrote into the same folder."""
    versions = {}
    for build in ("opencv-python-headless", "opencv-python"):
        try:
            versions[build] = importlib.metadata.version(build)
        except importlib.metadata.PackageNotFoundError:
            continue
    mend = "pip install --force-reinstall --no-deps opencv-python-headless"
    if len(set(versions.values())) > 1:
        versions_found = " and ".join(f"{name} {version}" for name, version in versions.items())
        ours = versions["opencv-python-headless"]
        one = f"pip install opencv-python=={ours} && {mend}=={ours}"
        raise ConfigError(f"{versions_found} share one folder and are not one version: {one}")
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"OpenCV cannot be loaded ({str(error).splitlines()[0]}): {mend}") from None


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return ["not known: torch is not installed"]
    return [
        f"{torch.cuda.get_device_name(number)}, {torch.cuda.get_device_properties(number).total_memory / 1e9:.0f} GB"
        for number in range(torch.cuda.device_count())
    ]


def _clipiqa_weights() -> str:
    from lucidflux_data.iqa.clipiqa import find_weights

    try:
        return str(find_weights())
    except ConfigError as error:
        return str(error)
