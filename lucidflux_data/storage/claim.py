"""Start, resume or refuse a folder: what every job asks before it writes the first file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from lucidflux_data.errors import ConfigError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.run_folder import RUN_FILE, read_claim, seal

About = TypeVar("About", bound=Mapping[str, Any])  # the content of the file that says whose a folder is


def holds_files(folder: Folder) -> bool:
    """Whether a file lies directly in the folder; hidden ones, as systems leave them, do not count."""
    return any(not name.startswith(".") for name in folder.names())


def claim(
    folder: Folder,
    run: About,
    unknown: str,
    resume: Callable[[About], bool],
    *,
    name: str = RUN_FILE,
    encode: Callable[[Mapping[str, Any]], bytes] = seal,
    taken: Callable[[Folder], bool] = holds_files,
) -> About | None:
    """Writes `run` into a new folder, or checks that the folder is of the same run. Gives what was there before.

    `name`: the file that says whose the folder is. Where there is none, `taken` says whether the folder holds something
    of others, and `unknown` is the end of that sentence ("is not empty and ...").
    `resume`: given the file that is there. It raises ConfigError where that is of another run, and says whether `run`
    is written over it. InputError for a file that is damaged.
    """
    if not folder.exists(name):
        if folder.exists() and taken(folder):
            raise ConfigError(f"{folder} {unknown}: choose another --out")
        folder.publish(name, encode(run))
        return None
    before = cast(About, read_claim(folder, name))
    if resume(before):
        folder.publish(name, encode(run))
    return before
