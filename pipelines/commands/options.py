"""The options that the commands of all packages share; imports nothing heavy."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.execution.executor import Executor


def check_finite(value: float | None) -> float | None:
    """For `typer.Option(callback=check_finite)`: bounds let not-a-number pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


OUT = ("--out", "-o")
SETTLE_WAIT_S = 60.0  # for a command that changes what another is about to read
Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Folder, glob, WebDataset tar or Parquet; local or a url.")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")]
Out = Annotated[str, typer.Option(*OUT, metavar="RUN", help="The run folder, new or to be resumed.")]
Preset = Annotated[str, typer.Option(help="lucidflux, strict or demo.")]
ConfigFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="TOML over the preset.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=V", help="One setting over preset and file.")]
Iqa = Annotated[str | None, typer.Option(metavar="NAME", help="Quality metric of the cut, or none.")]
TopFraction = Annotated[str | None, typer.Option(help="Keep the best fraction of the survivors.")]
TopK = Annotated[int | None, typer.Option(min=1, help="Keep the best N of the survivors.")]
MinSide = Annotated[int | None, typer.Option(min=0, help="Shorter side, in pixels, that an image must have.")]
Forbid = Annotated[
    list[str] | None,
    typer.Option(metavar="SUITE|FILE|DIR", help="Benchmark images that must not get in; may be repeated."),
]
ForbidMissing = Annotated[
    str | None, typer.Option(metavar="stop|warn", help="A suite of --forbid that is not there: stop (2), or go on.")
]
AllowUris = Annotated[
    list[str] | None,
    typer.Option(metavar="PREFIX", help="Uris in tables that may be read, beside those below the source; repeat it."),
]
Join = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE.parquet", help="Your own columns, by uri, key or sha256; or none."),
]
Where = Annotated[
    str | None, typer.Option(metavar="EXPR", help='Keep only what this is true of: aesthetic > 5; "": all.')
]
Carry = Annotated[str | None, typer.Option(metavar="A,B", help="Columns that go along into ledger, shards and pairs.")]
OptOut = Annotated[list[str] | None, typer.Option(metavar="FILE", help="sha256, keys or uris to leave out.")]
NearDuplicates = Annotated[
    str | None, typer.Option(metavar="N|none", help="Keep the best of images within N bits (0 to 16).")
]
Base = Annotated[
    str | None,
    typer.Option(metavar="SET|none", help="A published set to add to: a packed run, or its shards and manifest."),
]
SemanticDuplicates = Annotated[
    str | None, typer.Option(metavar="COS|none", help="Keep the best of images whose vectors have this cosine.")
]
Scorer = Annotated[
    str | None,
    typer.Option(
        metavar="PKG.MOD:FUNCTION|NAME[=PATH]",
        help="Yours, a list of images in, a dict of columns out; or sscd, clip, siglip2 with weights from PATH.",
    ),
]
Embedding = Annotated[str | None, typer.Option(metavar="COLUMN", help="The vectors, where scorers gave several.")]
Quota = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN=MAX", help="At most MAX images of each value; repeat it; or none.")
]
Balance = Annotated[
    str | None, typer.Option(metavar="clusters=N|none", help="Spread the cut evenly over N clusters of vectors.")
]
Tiles = Annotated[int | None, typer.Option(min=0, help="Measure tiles of N pixels a side, too; 0: none.")]
WhereTile = Annotated[
    str | None, typer.Option(metavar="EXPR", help='Good tiles, in which crops lie: laplacian_variance > 150; "": all.')
]
MinGoodTiles = Annotated[
    float | None, typer.Option(min=0, max=1, callback=check_finite, help="Share of its tiles that must be good.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="A seeded sample of N candidates.")]
NumCpus = Annotated[int | None, typer.Option(min=1, help="Workers; all cores by default.")]
NumGpus = Annotated[int | None, typer.Option(min=0, help="GPUs for the quality metric.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; RAY_ADDRESS otherwise, else a private one.")]


class ExecutorName(StrEnum):
    """What `open_executor` takes."""

    ray = "ray"
    local = "local"


ExecutorKind = Annotated[ExecutorName, typer.Option("--executor", help="A Ray cluster, or processes of this machine.")]
MaxFailed = Annotated[
    float | None, typer.Option(min=0, max=1, callback=check_finite, help="Exit 4 when a larger share failed.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Wait = Annotated[
    float,
    typer.Option("--wait", metavar="SECONDS", min=0, callback=check_finite, help="For another writer to end."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
SuitesDir = Annotated[Path | None, typer.Option(help="Where prepared suites are; LUCIDFLUX_SUITES by default.")]


@dataclass(frozen=True)
class ExecutorOptions:
    """--executor, --num-cpus, --num-gpus and --address, as of `open_executor`."""

    kind: str  # ray or local
    num_cpus: int | None
    num_gpus: int | None
    address: str | None

    def open(self) -> AbstractContextManager[Executor]:
        """Imports Ray, which takes a second."""
        from pipelines.execution.opening import open_executor

        return open_executor(self.kind, self.num_cpus, self.num_gpus, self.address)


@dataclass(frozen=True)
class ConfigChanges:
    """--config and --set: a TOML file over what is there, and single settings over the file."""

    file: str | None
    settings: list[str]


@contextlib.contextmanager
def writing(folder: str, wait: float, new: bool = False, dry_run: bool = False) -> Iterator[None]:
    """Around what writes into `folder`, which `new` commands may make: as lease.hold. A dry run writes nothing."""
    from lucidflux_data.storage.folder import Folder
    from lucidflux_data.storage.lease import hold

    with contextlib.nullcontext() if dry_run else hold(Folder(folder), wait, new):
        yield


@contextlib.contextmanager
def writing_file(out: str | Path, wait: float) -> Iterator[Callable[[bytes], str]]:
    """Around a command that writes the one file `out`, whose folder it holds and may make; gives what publishes it, and
    then says where it is. ConfigError for a folder."""
    from lucidflux_data.errors import ConfigError
    from lucidflux_data.storage.folder import Folder

    place, name = os.path.split(os.fspath(out))
    folder = Folder(place or ".")
    if name in ("", ".", "..") or (folder.is_local and os.path.isdir(out)):
        raise ConfigError(f"{out} is a folder: give --out the name of a file")

    def publish(data: bytes) -> str:
        folder.publish(name, data)
        return folder.path(name)

    with writing(folder.url, wait, new=True):
        yield publish


def settle(*folders: str) -> None:
    """Before sets are read: what a command left half written anew is finished. One that still runs is waited for."""
    from lucidflux_data.audit.forget import finish_forgetting, is_half_done
    from lucidflux_data.storage.folder import Folder
    from lucidflux_data.storage.journal import is_left
    from lucidflux_data.storage.lease import hold

    for folder in map(Folder, folders):
        if folder.url.startswith(("http://", "https://")):  # nothing of ours is written there
            continue
        if is_left(folder) or is_half_done(folder):
            with hold(folder, SETTLE_WAIT_S):
                if is_half_done(folder):
                    finish_forgetting(folder)


def kind_settings(
    semantic: str | None, embedding: str | None, quota: list[str] | None, balance: str | None
) -> list[str]:
    """--semantic-duplicates, --embedding, --quota and --balance as settings."""
    given = {"semantic_duplicates": semantic, "embedding": embedding}
    settings = [f"select.{name}={value}" for name, value in given.items() if value is not None]
    if quota:
        settings.append(f"select.quota={'' if quota == ['none'] else ','.join(quota)}")
    if balance is not None:
        settings.append(f"select.balance={balance.removeprefix('clusters=')}")
    return settings


def tile_setting(tiles: int | None) -> list[str]:
    """--tiles as a setting."""
    return [f"measures.tiles={tiles}"] if tiles is not None else []


def allow_setting(prefixes: list[str] | None) -> list[str]:
    """--allow-uris as a setting."""
    return [f"storage.allow_uris={','.join(prefixes)}"] if prefixes else []
