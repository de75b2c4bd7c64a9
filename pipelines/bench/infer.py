"""`lucidflux bench infer`: the outputs of a method on a suite, by an adapter's repository, or here.

Here: a method of our own (own.py), Real-ESRGAN (realesrgan.py) or a network from a file (network.py). All write the
same folder of images and the same method.json, which the leaderboard reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from benchmarks.methods import adapters, made, prompts
from benchmarks.methods import run as infer
from benchmarks.methods.method_file import METHOD_FILE, MethodFile, RunRecord
from benchmarks.methods.prompts import Prompts
from benchmarks.suites.prompts import read_prompts
from benchmarks.suites.suite import Suite, check_images, images_by_id
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import probe_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import indented_json
from lucidflux_data.storage.lease import hold
from pipelines.bench import network, own, realesrgan
from pipelines.bench.evaluate import prepared_suite
from pipelines.bench.making import Make, Place
from pipelines.execution.progress import Progress, warn
from pipelines.restoration.config import is_network_file, refuse_other_file


class Summary(TypedDict):
    """What `bench infer --json` prints."""

    method: str
    folder: str
    images: int  # made by this command
    there_before: int
    missing: list[str]  # ids that could not be made
    wrong_size: list[str]  # ids whose output is not of the promised size
    remarks: dict[str, str]  # id -> why it was left out, or what is wrong with its size
    seconds_per_image: float | None
    peak_gpu_mb: int | None
    commit: str | None


HERE = (*own.NAMES, realesrgan.NAME)


def is_adapted(name: str) -> bool:
    """Whether a method runs in a repository of its own, and not here."""
    return not is_network_file(name) and name.split("[")[0] not in HERE


def choose_method(method: str | None, model: str | None) -> tuple[str, str | None]:
    """(name, --model of the method): a file of weights is a method. ConfigError for none, or for two."""
    if model is not None and is_network_file(model):
        if method is not None:
            raise ConfigError(f"{model} is a method of its own: leave out {method}, or --model")
        return model, None
    refuse_other_file(model)
    if method is None:
        raise ConfigError("give METHOD, or --model FILE.pth")
    return method, model


def own_scale(name: str, place: Place) -> int | None:
    """The scale that a method has by itself; None where it takes any."""
    return network.scale_of(name, place.extra_archs) if is_network_file(name) else None


def check_method(name: str, settings: list[str], seeds: list[int]) -> None:
    """ConfigError for an adapter that is unknown, wrong, lacks one of `settings`, or takes no seed: before a suite is
    prepared."""
    if is_adapted(name):
        adapter = adapters.load_adapter(name, HERE)
        adapters.resolve(adapter, settings)
        if seeds and not adapter.takes("seed"):
            raise ConfigError(f"{adapter.name} takes no seed: leave out --seed")


def find_inputs(
    name: str | None, inputs: Path | None, scale: int | None, folder: Path
) -> tuple[str, Suite | None, dict[str, Path], int]:
    """(name of the place, the suite `name` below `folder`, id -> input, scale)."""
    if (name is None) == (inputs is None):
        raise ConfigError("give --suite NAME or --inputs DIR")
    if inputs is not None:
        return inputs.name, None, images_by_id(inputs), scale or 4
    assert name is not None, "one of the two is given"
    suite = prepared_suite(name, folder)
    if scale not in (None, suite.scale):
        raise ConfigError(f"{name} has the scale {suite.scale}")
    check_images(suite, suite.lq, ("lq",))
    return suite.name, suite, dict(suite.lq), suite.scale or 4


def choose_prompts(name: str, asked: str | None, suite: Suite | None, ids: Iterable[str]) -> Prompts | None:
    """The prompts of `ids` that --prompts asks for: none, fixed:TEXT, file (those of the suite) or a folder of them.
    None for a method that takes none. ConfigError where the method and the option do not fit."""
    if not is_adapted(name) or not adapters.load_adapter(name, HERE).takes("prompts"):
        if asked is not None:
            raise ConfigError(f"{name} takes no prompts: leave out --prompts")
        return None
    if asked is None:
        raise ConfigError(f"{name} takes prompts: give --prompts none, fixed:TEXT, file (the suite's) or a folder")
    plain = prompts.plain_prompts(asked)
    if plain is not None:
        return plain
    if asked != "file":
        return prompts.prompts_of_files(read_prompts(Path(asked), ids))
    if suite is None or suite.prompts is None:
        where = suite.name if suite else "--inputs"
        raise ConfigError(f"{where} carries no prompts: --prompts FOLDER has them, here or of `bench prepare`")
    return prompts.prompts_of_files(read_prompts(suite.prompts, ids, suite.prompt_record))


def infer_method(
    name: str, inputs: dict[str, Path], out: Path, scale: int, seeds: list[int], settings: list[str], place: Place,
    progress: Progress,
) -> Summary:  # fmt: skip
    """Makes the images of a method that are not there yet; returns a summary. No seeds: one run."""
    about, make = _describe(name, scale, settings, place)
    folder = out / about["method"]
    with hold(Folder(folder), place.wait_s, new=True):
        return _infer(folder, about, make, inputs, seeds, not is_adapted(name), progress)


def _describe(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    if is_adapted(name):
        return _adapted(name, scale, settings, place)
    if is_network_file(name):
        return network.describe_network(name, scale, settings, place)
    if name.split("[")[0] == realesrgan.NAME:
        return realesrgan.describe(name, scale, settings, place)
    return own.describe_own(name, scale, settings, place)


def _infer(
    folder: Path, about: MethodFile, make: Make, inputs: dict[str, Path], seeds: list[int], here: bool,
    progress: Progress,
) -> Summary:  # fmt: skip
    fixed = ("method", "settings", "weights") if here else tuple(key for key in about if key != "licence_class")
    about = infer.start_method(folder, about, fixed)
    made.check_seeds(about, folder, seeds or [0])
    runs: list[RunRecord] = []
    there_before = 0
    for seed in seeds or [0]:
        target = folder / f"seed-{seed}" if len(seeds) > 1 else folder
        records = about.setdefault("made", {}).setdefault(str(seed), {})
        stale = made.remove_stale(folder, seed, target, inputs, records)
        if stale:
            warn(f"{stale[0]} is made again ({len(stale)} such): its input or its output is another than before")
        before = len(infer.done_ids(target) & inputs.keys())
        Folder(folder).publish(METHOD_FILE, indented_json(about))
        run = make(inputs, folder, target, seed, progress)
        made.record_outputs(target, inputs, records)
        there_before += before
        if run:
            _warn_of(run)
            about["runs"].setdefault(str(seed), []).append(run)
            runs.append(run)
    infer.finish_method(folder, about)
    return {
        "method": about["method"],
        "folder": str(folder),
        "images": sum(run["images"] for run in runs),
        "there_before": there_before,
        "missing": [id_ for run in runs for id_ in run["missing"]],
        "wrong_size": [id_ for run in runs for id_ in run["wrong_size"]],
        "remarks": {id_: remark for run in runs for id_, remark in run.get("remarks", {}).items()},
        "seconds_per_image": about["seconds_per_image"],
        "peak_gpu_mb": about["peak_gpu_mb"],
        "commit": about["commit"],
    }


def _warn_of(run: RunRecord) -> None:
    """The first remarks of a run; all are in method.json."""
    remarks = run.get("remarks", {})
    for id_ in sorted(remarks)[:3]:
        warn(f"{id_}: {remarks[id_]}")
    if len(remarks) > 3:
        warn(f"method.json names {len(remarks) - 3} more")


def estimate_work(name: str, images: int, scale: int, settings: list[str], place: Place) -> dict[str, object]:
    """What would be run: for an adapter its repository, recipe, command and what is known to go wrong."""
    if is_network_file(name):
        about, _ = network.describe_network(name, scale, settings, place)
        method_facts = {"method": about["method"], "weights": about["weights"], "settings": about["settings"]}
        return {**method_facts, "images": images, "scale": scale}
    if not is_adapted(name):
        return {"method": name, "images": images, "scale": scale}
    adapter = adapters.load_adapter(name)
    adapters.check_scale(adapter, scale)
    values, method = adapters.resolve(adapter, settings, place.prompts)
    shown = {name: f"<{name}>" for name in ("python", "inputs", "outputs", "seed", "prompts")}
    return {
        "method": method,
        "images": images,
        "scale": scale,
        "about": adapter.about,
        "licence": adapter.licence,
        "licence_class": adapter.licence_class,
        "repository": adapter.repository,
        "commit": adapter.commit,
        "environment": list(adapter.environment),
        "weights": adapter.weights,
        "gpus": adapter.gpus,
        "settings": values,
        "gotchas": list(adapter.gotchas),
        "command": adapter.argv(values, scale=scale, **shown),
    }


def _adapted(name: str, scale: int, settings: list[str], place: Place) -> tuple[MethodFile, Make]:
    adapter = adapters.load_adapter(name)
    adapters.check_scale(adapter, scale)
    if place.repo is None or not place.repo.is_dir():
        raise ConfigError(
            f"{adapter.name} runs from a checkout: git clone {adapter.repository}, git checkout {adapter.commit}, "
            "make its environment (--dry-run shows how), then --repo CHECKOUT --python ENVIRONMENT/bin/python"
        )
    values, method = adapters.resolve(adapter, settings, place.prompts)
    repo = place.repo.absolute()
    script = adapter.script()
    if script is not None and not (repo / script).is_file():
        raise ConfigError(f"{place.repo} has no {script}: is it a checkout of {adapter.repository}?")
    python = os.path.abspath(place.python) if os.sep in place.python else place.python  # it is started in the checkout
    about = infer.describe(adapter, method, values, scale, repo, python)

    def make(inputs: dict[str, Path], folder: Path, target: Path, seed: int, progress: Progress) -> RunRecord | None:
        if not about["at_pinned_commit"]:
            warn(f"{repo} is at {about['commit'] or 'no commit'}, the adapter was written for {adapter.commit}")
        progress.say(f"{method}: {len(inputs)} images; the program writes to {folder / infer.LOG_FILE}")
        return infer.run_adapter(
            adapter, inputs, folder, target, values, scale, seed, python, repo, place.timeout_s, place.prompts
        )

    return about, make


def check_inputs(inputs: dict[str, Path]) -> None:
    """InputError for the first input that is no image: better now than after an hour."""
    for path in inputs.values():
        try:
            probe_apart(read_file(path))
        except ImageError as error:
            raise InputError(f"{path} is {error.reason}: {error.detail}") from None
