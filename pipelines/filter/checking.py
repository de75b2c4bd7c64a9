"""The shards of a set or of pairs, checked by all workers: what `verify` does after the tables."""

from __future__ import annotations

from collections.abc import Callable

from lucidflux_data.shards import verify
from lucidflux_data.shards.shard import Manifest
from lucidflux_data.storage import run_folder
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Unit

CheckPart = Callable[[Unit[verify.Part]], verify.Checked]


def check_shards(
    manifest: Manifest, deep: bool, job: CheckPart, executor: Executor, progress: Progress
) -> tuple[list[str], list[str], int]:
    """(problems, names of the tars that have one, samples) of the shards of a manifest.

    `deep`: shards are cut into parts, so that the last ones, or the only one, keep every worker busy; their size
    depends on the number of samples alone.
    """
    samples = sum(entry["samples"] for entry in manifest["shards"])
    size = run_folder.unit_size(samples) if deep else max(1, samples)
    units = [Unit(part.name, part.last - part.first, part) for part in verify.split_shards(manifest["shards"], size)]
    found = []
    with progress.phase("verify", samples, 0) as advance:
        for unit, checked in executor.map(units, job):
            found.append((unit.payload, checked))
            advance(unit.size)
    return *verify.gather_checked(found), samples
