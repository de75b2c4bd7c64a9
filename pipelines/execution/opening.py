"""Opens the executor that a command asks for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from lucidflux_data.errors import ConfigError, Interrupted
from pipelines.execution.executor import Executor, available_cpus
from pipelines.execution.local import LocalExecutor
from pipelines.execution.on_ray import RayExecutor


@contextlib.contextmanager
def open_executor(kind: str, num_cpus: int | None, num_gpus: int | None, address: str | None) -> Iterator[Executor]:
    """`kind`: ray or local. Ray joins `address`, else RAY_ADDRESS, else starts a private cluster for this run."""
    executor: Executor
    if kind == "ray":
        executor = RayExecutor(num_cpus, num_gpus, address or os.environ.get("RAY_ADDRESS") or "local")
    elif kind == "local":
        executor = LocalExecutor(num_cpus or available_cpus(), num_gpus or 0)
    else:
        raise ConfigError(f"--executor is ray or local, not {kind}")
    try:
        yield executor
    except KeyboardInterrupt:
        raise Interrupted("interrupted: repeat the command to resume") from None
    finally:
        executor.close()
