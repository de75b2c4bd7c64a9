"""The list of images that were taken out of a folder, and what of them is in its shards yet."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.pairs import samples
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.run_folder import forgotten_keys


def holds_any(folder: Folder, shard: str, keys: frozenset[str]) -> bool:
    """Whether the index of a shard (a name without `.tar`) has a sample, or names a failed image, of these keys.

    InputError for a damaged index.
    """
    index = folder.read_table(f"shards/{shards.index_name(shard)}", ["key"])
    if any(key[:20] in keys for key in index["key"].to_pylist()):
        return True
    return any(row["key"] in keys for row in samples.failed_images(folder, f"{shard}.tar"))


def find_left(folder: Folder, names: Iterable[str]) -> list[str]:
    """A sentence for each shard (`names`: without `.tar`) and for the ledger where a forgotten image is left.

    An index that is not there or is damaged is passed over: checks of the shards tell of it.
    """
    keys = forgotten_keys(folder)
    if not keys:
        return []
    advice = "repeat `lucidflux-data forget`"
    problems = []
    for name in names:
        try:
            if holds_any(folder, name, keys):
                problems.append(f"shards/{name}.tar holds an image that was forgotten: {advice}")
        except (FileNotFoundError, InputError):
            continue
    if folder.exists(runs.LEDGER):
        kept = runs.read_ledger(folder, ["key", "keep"], pc.field("keep"))["key"].to_pylist()
        count = sum(key in keys for key in kept)
        if count:
            problems.append(f"{runs.LEDGER} keeps {count} images of {run_folder.FORGOTTEN}: {advice}")
    return problems
