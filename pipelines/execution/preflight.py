"""Before a run on a cluster that was joined: has every node the driver's versions, and reaches it source and output?"""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import sys
from dataclasses import dataclass
from typing import TypedDict

from lucidflux_data.codecs.version import LIBRARIES, decoder_versions
from lucidflux_data.errors import ConfigError, CredentialsError, LucidFluxError
from lucidflux_data.sources.tars import is_image_name
from lucidflux_data.storage.folder import Folder, file_system, retry_call
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import AnyUnit

# The distributions whose versions decide bytes; another one on one node would break "the same bytes everywhere".
PACKAGES = ("lucidflux", "numpy", "pyarrow", "numba", *LIBRARIES.values())


class NodeReport(TypedDict):
    host: str
    versions: dict[str, str]  # of PACKAGES and Python
    problems: list[str]  # sentences


@dataclass(frozen=True)
class CheckNode:
    """Runs on a node: versions, whether the sources can be listed, whether the output can be written to."""

    sources: tuple[str, ...]
    folder: Folder
    metric: str

    def __call__(self, unit: AnyUnit) -> NodeReport:
        return {"host": platform.node(), "versions": versions(), "problems": self._problems()}

    def _problems(self) -> list[str]:
        problems = []
        for url in self.sources:
            try:
                known = any(mark in url for mark in "*?[") or retry_call(lambda u=url: file_system(u).exists(u), url)  # type: ignore[misc]
                if not known:
                    problems.append(f"{url} is not there" + (" (a path of another machine?)" * url.startswith("file:")))
            except CredentialsError:
                raise
            except PermissionError:  # it was listed: it could be read then
                raise CredentialsError(url) from None
            except LucidFluxError as error:
                problems.append(str(error))
        name = f".tmp/preflight-{secrets.token_hex(4)}"
        try:
            self.folder.publish(name, b"preflight")
            self.folder.remove(name)
        except (LucidFluxError, OSError) as error:
            problems.append(f"{self.folder} cannot be written to ({error})")
        if self.metric == "clipiqa":
            from lucidflux_data.iqa.clipiqa import find_weights

            try:
                find_weights()
            except ConfigError as error:
                problems.append(str(error))
        return problems


def versions() -> dict[str, str]:
    """Of Python, the decoders and the packages that decide bytes; "none" where one is missing."""
    found = {"python": ".".join(map(str, sys.version_info[:2])), "decoder": decoder_versions()["decoder"]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def preflight(executor: Executor, sources: list[str], folder: Folder, metric: str, progress: Progress) -> None:
    """Checks every node of a joined cluster. ConfigError with the first problem and the node that has it.

    A local output folder must be the same place on every node (a shared disk); what is written on one is looked for
    from here.
    """
    each_node = getattr(executor, "each_node", None)
    if each_node is None:
        return
    mine = versions()
    answers = each_node(CheckNode(tuple(url for url in sources if not is_image_name(url)), folder, metric))
    for answer in answers:
        for package, version in answer["versions"].items():
            if version != mine[package]:
                raise ConfigError(f"node {answer['host']} has {package} {version}, the driver {mine[package]}")
        if answer["problems"]:
            raise ConfigError(f"node {answer['host']}: {answer['problems'][0]}")
    if answers:
        progress.say(f"preflight: {len(answers)} nodes have the same versions and reach source and output")
