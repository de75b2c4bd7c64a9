"""Jobs in this process, without commands: for tests whose subject is neither the executor nor the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs.config import make_pairs_config
from lucidflux_data.pairs.job import is_pairs
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder, absolute_url, configure
from pipelines.execution import counting
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Publish
from pipelines.filter import job
from pipelines.filter.repair import verify_run
from pipelines.synthesis.job import synthesize
from pipelines.synthesis.verify import verify_pairs

QUIET = Progress(quiet=True)


def run_counted(job: Any, unit: Any) -> Any:
    """`job(unit)`, which counts each image of the unit once; one that publishes nothing may count none."""
    numbers = [0]
    counting.share(numbers)
    with counting.telling(0):
        result = job(unit)
    assert numbers[0] == unit.size or (numbers[0] == 0 and not isinstance(job, Publish)), f"{unit.name}: {numbers}"
    return result


class Here:
    """Units one after the other."""

    num_gpus = 0

    def map(self, units: Any, job: Any, *_: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
        for unit in units:
            yield unit, run_counted(job, unit)


def run_filter(source: object, out: object, *settings: str) -> None:
    config = make_config(settings=settings)
    configure(config.storage.model_dump())
    folder = Folder(str(out))
    job.list_into(folder, [absolute_url(str(source))], config, "lucidflux", None, ("score", "select", "pack"), QUIET)
    job.score(folder, config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    job.pack(folder, config, Here(), QUIET)


def select_into(source: Path, run: Path, *settings: str) -> Path:
    """A run that is scored and selected, and not packed."""
    config, folder = make_config(settings=settings), Folder(str(run))
    job.list_into(folder, [absolute_url(str(source))], config, "lucidflux", None, ("score", "select"), QUIET)
    job.score(folder, config, Here(), QUIET)
    job.select(folder, config, Here(), QUIET)
    return run


def run_synthesize(source: object, out: object, *settings: str) -> dict[str, Any]:
    """Gives the summary."""
    config = make_pairs_config("realesrgan-x4", settings=settings)
    about = pairs_run.make_run(config, "pairs", "cv2", [absolute_url(str(source))], None)
    pairs_run.start(Folder(str(out)), about)
    return synthesize(Folder(str(out)), about, Here(), QUIET)


def verified(folder: Path | str) -> int:
    """Samples that `verify --deep` finds whole; raises VerificationError."""
    check = verify_pairs if is_pairs(Folder(folder)) else verify_run
    return check(Folder(folder), True, False, Here(), QUIET)["samples"]
