"""Runs an adapter: stages the inputs, runs the command, collects what it wrote, records how it went.

    OUT/<method>/[seed-n/]{id}.<ext>   method.json   log.txt

Images that are there are not made again; outputs of other settings, or of another commit, are never mixed with them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.environment import commit
from benchmarks.methods.adapters import Adapter
from benchmarks.methods.made import outputs_of
from benchmarks.methods.memory import memory_of
from benchmarks.methods.method_file import METHOD_FILE, CommandRecord, MethodFile, RunRecord, read_method
from benchmarks.methods.prompts import Prompts, check_order, stage_prompts
from benchmarks.methods.staging import find_unfit, stage
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart, probe_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import indented_json

LOG_FILE = "log.txt"


def start_method(folder: Path, about: MethodFile, fixed: tuple[str, ...]) -> MethodFile:
    """method.json of a new or a resumed method. ConfigError where the outputs there were made in another way: where
    one of `fixed` differs."""

    def resume(before: Mapping[str, object]) -> bool:
        changed = [key for key in fixed if before.get(key) != about.get(key)]
        if changed:
            raise ConfigError(f"{folder} was made with another {', '.join(changed)}: choose another --out")
        return False

    place, new = Folder(folder), MethodFile({**about, "runs": {}})
    there = claim(  # before the first image, so that a killed run is known for what it is
        place, new, "holds images that `bench infer` did not make", resume,
        name=METHOD_FILE, encode=indented_json, taken=lambda _: any(folder.rglob("*.png")),
    )  # fmt: skip
    if there is None:
        place.sweep()
        return new
    resumed: MethodFile = {**(read_method(folder) or {}), **about}
    resumed.setdefault("runs", {})
    return resumed


def finish_method(folder: Path, about: MethodFile) -> None:
    """Writes method.json, with seconds an image and peak memory over all runs."""
    runs = [run for by_seed in about["runs"].values() for run in by_seed]
    images, seconds = sum(run["images"] for run in runs), sum(run["wall_seconds"] for run in runs)
    about["seconds_per_image"] = round(seconds / images, 4) if images else None
    peaks = [run["peak_gpu_mb"] for run in runs if run["peak_gpu_mb"] is not None]
    about["peak_gpu_mb"] = max(peaks, default=None)
    Folder(folder).publish(METHOD_FILE, indented_json(about))
    Folder(folder).sweep()


def done_ids(place: Path) -> set[str]:
    """Ids that have an image in a folder of outputs already."""
    return set(outputs_of(place))


def run_adapter(
    adapter: Adapter,
    inputs: dict[str, Path],
    folder: Path,
    place: Path,
    settings: dict[str, str],
    scale: int,
    seed: int,
    python: str,
    repo: Path,
    timeout_s: float | None,
    prompts: Prompts | None = None,
) -> RunRecord | None:
    """Makes the images of `inputs` that are not in `place` yet, with the prompts of exactly those; gives what is to be
    recorded of the run, None where all are there.

    InputError where the command made no image, with the last line that it printed.
    """
    for before in folder.glob(f".work-{seed}-*"):  # of a run that was killed: what it finished is kept
        collect(adapter.found(before / "outputs"), place, inputs, adapter, scale)
        shutil.rmtree(before, ignore_errors=True)
    left = {id_: path for id_, path in inputs.items() if id_ not in done_ids(place)}
    if not left:
        return None
    unfit = find_unfit(left, adapter, scale)
    fit = {id_: path for id_, path in left.items() if id_ not in unfit}
    if not fit:
        if len(left) == len(inputs):
            raise InputError(f"{min(unfit)}: {unfit[min(unfit)]} ({len(unfit)} such, and no other)")
        return _leave_out(unfit)
    work = folder / f".work-{seed}-{secrets.token_hex(4)}"
    collected: dict[str, str | None] = {}
    try:
        stage(fit, work / "inputs", adapter.stage.form)
        (work / "outputs").mkdir()
        if prompts is not None:
            stage_prompts(prompts, fit, work / "prompts")
            if adapter.prompts_by_order:
                check_order(work / "inputs", work / "prompts")
        given = {"python": python, **{name: work / name for name in ("inputs", "outputs", "prompts")}}
        argv = adapter.argv(settings, scale=scale, seed=seed, **given)
        run = run_command(argv, repo, folder / LOG_FILE, timeout_s)
    finally:
        collected = collect(adapter.found(work / "outputs"), place, fit, adapter, scale)
        shutil.rmtree(work, ignore_errors=True)
    if not collected:
        end = "was stopped at its time limit" if run["timed_out"] else f"ended with exit code {run['exit_code']}"
        raise InputError(f"{adapter.name} {end} and made no image: {run['last_line']} (all of it: {folder / LOG_FILE})")
    wrong = {id_: remark for id_, remark in collected.items() if remark}
    return {
        **run,
        "images": len(collected),
        "missing": sorted(set(left) - set(collected)),
        "wrong_size": sorted(wrong),
        "remarks": unfit | wrong,
    }


def _leave_out(unfit: dict[str, str]) -> RunRecord:
    """What is recorded where every image that lacks is left out, and nothing was run."""
    return {
        "exit_code": 0,
        "timed_out": False,
        "wall_seconds": 0.0,
        "peak_gpu_mb": None,
        "images": 0,
        "missing": sorted(unfit),
        "wrong_size": [],
        "remarks": unfit,
    }


def collect(
    found: dict[str, Path], place: Path, inputs: dict[str, Path], adapter: Adapter, scale: int
) -> dict[str, str | None]:
    """Moves the files of `inputs` to `place` under their ids: id -> what is wrong with the size, None where it is what
    the adapter promises.

    A file that does not decode to its end is left: the program was stopped while it wrote it.
    """
    collected = {}
    for id_ in sorted(found.keys() & inputs.keys()):
        source = probe_apart(read_file(inputs[id_]))
        expected = adapter.output_size or (source.width * scale, source.height * scale)
        try:
            pixels = pixels_apart(read_file(found[id_]))
        except ImageError:
            continue
        collected[id_] = adapter.tell_size((pixels.shape[1], pixels.shape[0]), expected)
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(found[id_], place / f"{id_}{found[id_].suffix.lower()}")
    return collected


def run_command(argv: list[str], repo: Path, log: Path, timeout_s: float | None) -> CommandRecord:
    """Runs a command in a session of its own; everything that it prints goes to `log`. Ctrl-C and the limit end it."""
    start = time.monotonic()
    with log.open("ab") as sink:
        sink.write(f"$ {' '.join(argv)}\n".encode())
        sink.flush()
        first = sink.tell()
        try:
            process = subprocess.Popen(
                argv, cwd=repo, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        except OSError as error:
            raise ConfigError(f"{argv[0]} cannot be run: {error.strerror}; --python names the interpreter") from None
        timed_out = False
        with memory_of(process.pid) as peak:
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it left behind, or all of it
                process.wait()
    with log.open("rb") as printed:
        printed.seek(first)
        lines = [line for line in printed.read().decode(errors="replace").splitlines() if line.strip()]
    return {
        "exit_code": process.returncode,
        "timed_out": timed_out,
        "wall_seconds": round(time.monotonic() - start, 3),
        "peak_gpu_mb": peak.get("gpu"),
        "peak_rss_mb": peak.get("rss"),
        "last_line": lines[-1][-300:] if lines else "it printed nothing",
    }


def describe(
    adapter: Adapter, method: str, settings: dict[str, str], scale: int, repo: Path, python: str
) -> MethodFile:
    """What method.json says of an adapter's method; all of it but the licence class must stay the same for its outputs
    to be resumed."""
    there = commit(repo)
    return {
        "method": method,
        "repository": adapter.repository,
        "commit": there,
        "at_pinned_commit": bool(there and there.startswith(adapter.commit) and not there.endswith("-dirty")),
        "licence_class": adapter.licence_class,
        "settings": settings | {"scale": str(scale)},
        "packages": packages_of(python),
    }


def packages_of(python: str) -> str | None:
    """sha256 of what `pip freeze` prints in the method's environment, None where there is no pip."""
    import hashlib

    try:
        listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return hashlib.sha256(listed.stdout).hexdigest()[:16] if listed.returncode == 0 else None
