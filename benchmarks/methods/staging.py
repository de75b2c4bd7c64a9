"""Staging: the inputs as an adapter's repository is given them, exactly those that run.

id -> input  ->  which cannot be given to it, and why  ->  WORK/inputs/{id}.<ext>
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.methods.adapters import Adapter
from lucidflux_data.codecs.encoding import encode
from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart, probe_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.folder import Folder

READ_BY_ALL = (".png", ".jpg", ".jpeg")


def find_unfit(inputs: dict[str, Path], adapter: Adapter, scale: int) -> dict[str, str]:
    """id -> why it is left out, of the inputs that the repository cannot be given. InputError for one that is no
    image."""
    unfit = {}
    for id_, path in inputs.items():
        try:
            header = probe_apart(read_file(path))
        except ImageError as error:
            raise InputError(f"{path} is {error.reason}: {error.detail}") from None
        remark = adapter.describe_unfit(header.width, header.height, scale)
        if remark is not None:
            unfit[id_] = remark
    return unfit


def stage(inputs: dict[str, Path], target: Path, how: str) -> None:
    """Puts the inputs into an empty folder as {id}.<ext>: links, or PNG files of the decoded pixels where `how` is png,
    for formats that not every repository reads, and for what is to be rotated, which not every repository does."""
    target.mkdir(parents=True)
    for id_, path in inputs.items():
        try:
            data = read_file(path)
            turned = probe_apart(data).orientation != 1
            plain = path.suffix.lower() in ((".png",) if how == "png" else READ_BY_ALL)
            pixels = None if plain and not turned else pixels_apart(data)
        except ImageError as error:
            raise InputError(f"{path} is {error.reason}: {error.detail}") from None
        if pixels is not None:
            Folder(target).publish(f"{id_}.png", encode(pixels))
        else:
            (target / f"{id_}{path.suffix.lower()}").symlink_to(path.absolute())
    Folder(target).sweep()
