"""W&B and MLflow, through accelerate's trackers: the figures of metrics.jsonl, and the settings. Off by default.

RUN/trackers.json has the id of the run in each service, so that a run that goes on is one run there. Where a service
stops taking figures, the training goes on: metrics.jsonl has them all.
"""

from __future__ import annotations

import contextlib
import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

IDS, PROJECT = "trackers.json", "lucidflux"


class Trackers:
    """Those of `names` (wandb, mlflow), for process 0."""

    def __init__(
        self, run: Path, names: Sequence[str], settings: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """ConfigError where one is not installed, or does not start."""
        self._say = say
        ids = read_ids(run)
        self._started: dict[str, Any] = {}
        for name in names:
            with _refusing(name):
                self._started[name] = STARTED_BY[name](run, ids.get(name))
                self._started[name].store_init_configuration(dict(settings))
        if names:
            found = {name: id_of(name, tracker) for name, tracker in self._started.items()}
            Folder(run).publish(IDS, (json.dumps({**ids, **found}, indent=1, sort_keys=True) + "\n").encode())

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, tracker in list(self._started.items()):
            try:
                tracker.log(dict(figures), step=step)
            except Exception as error:  # whatever the client of a service raises
                del self._started[name]
                self._say(f"warning: {name} takes no more figures ({_line(error)}): metrics.jsonl has them all")

    def close(self) -> None:
        for name, tracker in self._started.items():
            try:
                tracker.finish()
            except Exception as error:
                self._say(f"warning: {name} was not closed ({_line(error)})")
        self._started = {}


def read_ids(run: Path) -> dict[str, str]:
    """The ids of the run in services; {} where there are none."""
    try:
        return {str(name): str(id_) for name, id_ in parse_json((run / IDS).read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError):
        raise ConfigError(f"{run / IDS} is damaged: remove it to begin new runs in the trackers") from None


def _prepare() -> None:
    """What accelerate's own log asks for; it takes the process group that there is."""
    import torch
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())


def _start_wandb(run: Path, id_: str | None) -> Any:
    import wandb  # noqa: F401 - accelerate asks for it only when it starts
    from accelerate.tracking import WandBTracker

    _prepare()
    tracker = WandBTracker(
        PROJECT, name=run.absolute().name, id=id_ or uuid.uuid4().hex[:8], resume="allow", dir=str(run)
    )
    tracker.start()
    return tracker


def _start_mlflow(run: Path, id_: str | None) -> Any:
    import mlflow  # noqa: F401 - accelerate asks for it only when it starts
    from accelerate.tracking import MLflowTracker

    _prepare()
    tracker = MLflowTracker(PROJECT, run_name=run.absolute().name, run_id=id_)
    tracker.main_process_only = False  # only one process makes it; asking which would open a process group
    tracker.start()
    return tracker


STARTED_BY: dict[str, Callable[[Path, str | None], Any]] = {"wandb": _start_wandb, "mlflow": _start_mlflow}


def id_of(name: str, tracker: Any) -> str:
    """The id of the run in its service."""
    return str(tracker.run.id if name == "wandb" else tracker.active_run.info.run_id)


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):  # --json has standard output for itself
            yield
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'lucidflux[trackers]', or leave {name} out of trackers"
        ) from None
    except Exception as error:  # whatever the client of a service raises
        raise ConfigError(f"{name} does not start ({_line(error)}): leave it out of trackers, or mend that") from None


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
