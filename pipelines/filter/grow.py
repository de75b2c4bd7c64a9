"""A set that is added to: its shards become the first ones of the new set, the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow.compute as pc

from lucidflux_data.audit import strays
from lucidflux_data.audit.forget import samples_left
from lucidflux_data.errors import ConfigError, InputError, LucidFluxError, VerificationError
from lucidflux_data.growth.part import PUBLISHED, OldShard, part_of, read_entries, read_old_shards, take_base
from lucidflux_data.growth.shards import is_taken
from lucidflux_data.process import part_name
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.pool import ORIGINALS
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.config import ShardConfig
from lucidflux_data.shards.shard import TarWriter
from lucidflux_data.shards.verify import PLACE
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import TEMPORARY, Folder
from lucidflux_data.storage.run_folder import forgotten_keys
from pipelines.execution.counting import count_done
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit

CHUNK = 1 << 23  # bytes that are copied at a time


@dataclass(frozen=True)
class TakeShard:
    """Puts a shard of the base into `stage` of a run: the tar, linked where both lie on one disk, then its index.
    Without what was forgotten since (`gone`: keys), where it holds any."""

    base: Folder
    folder: Folder
    stage: str
    gone: frozenset[str]

    def __call__(self, unit: Unit[OldShard]) -> Iterator[File]:
        old = unit.payload
        tar, index = f"{PLACE}/{old.entry['name']}", f"{PLACE}/{shards.index_name(old.name)}"
        try:
            data = self.base.read(index)
            if hashlib.sha256(data).hexdigest() != old.entry["index_sha256"]:
                raise _differs(self.base, index)
            if self.gone.isdisjoint(old.keys):
                yield from self._whole(old, tar)
                yield f"{self.stage}/{shards.index_name(old.name)}", data
            else:
                yield from self._without(old, index)
        except FileNotFoundError:
            raise InputError(
                f"{self.base}/{tar} of the base is not there any more: put it back, or select with another --base"
            ) from None
        count_done(unit.size)

    def _whole(self, old: OldShard, tar: str) -> Iterator[File]:
        """Nothing where the tar could be linked."""
        name = f"{self.stage}/{old.entry['name']}"
        if self.base.is_local:
            with self.base.open(tar) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != old.entry["sha256"]:  # type: ignore[arg-type]
                    raise _differs(self.base, tar)
        if not (self.base.is_local and self.folder.is_local and _link(self.base.path(tar), self.folder, name)):
            yield name, self._copied(old, tar)

    def _copied(self, old: OldShard, tar: str) -> Iterable[bytes]:
        """The bytes, of which the last ones come only if all are those of the manifest."""
        if not self.base.is_local:
            data = self.base.read(tar)
            if hashlib.sha256(data).hexdigest() != old.entry["sha256"]:
                raise _differs(self.base, tar)
            yield data
            return
        sha256 = hashlib.sha256()
        with self.base.open(tar) as file:
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
                yield chunk
        if sha256.hexdigest() != old.entry["sha256"]:
            raise _differs(self.base, tar)

    def _without(self, old: OldShard, index: str) -> Iterator[File]:
        metadata, writer = shards.read_index_metadata(self.base, index), TarWriter()
        samples = samples_left(self.base, old.name, self.gone, metadata)
        writer.sha256s += [shards.sample_sha256(members) for members in samples.values()]
        yield f"{self.stage}/{old.entry['name']}", writer.chunks(samples.items())
        yield f"{self.stage}/{shards.index_name(old.name)}", writer.index_bytes(metadata["plan"])


def _differs(base: Folder, name: str) -> VerificationError:
    return VerificationError(
        f"{base}/{name} does not have the sha256 of its manifest: nothing was added; `lucidflux-data verify` tells"
    )


def _link(source: str, folder: Folder, name: str) -> bool:
    """A second name for a file: shards are replaced by a rename, never written into, so both stay what they are. False
    where the disks, or the file system, do not allow it."""
    part = folder.path(f"{TEMPORARY}/{part_name()}")
    os.makedirs(os.path.dirname(part), exist_ok=True)
    try:
        os.link(os.path.realpath(source), part)
    except OSError:
        return False
    folder.move(os.path.relpath(part, folder.root), name)
    with contextlib.suppress(FileNotFoundError):  # a rename onto another name of the same file does nothing
        os.unlink(part)
    return True


def take_shards(folder: Folder, stage: str, executor: Executor, progress: Progress) -> tuple[list[str], list[str]]:
    """(names of all shards of the base, of those that lie in the stage now); two empty lists where nothing is added to.
    InputError where the ledger is not of this base; else as TakeShard."""
    old, part = read_old_shards(folder), part_of(folder)
    if part is None:
        return [], []
    _check_ledger(folder, part)
    gone = forgotten_keys(folder)
    names, staged = set(folder.names(PLACE)), set(folder.names(stage))
    lacking = [one for one in old if not is_taken(folder, PLACE, one, names, gone)]
    todo = [one for one in lacking if not is_taken(folder, stage, one, staged, gone)]
    units = [Unit(one.name, len(one.keys), one) for one in todo]
    job = TakeShard(Folder(runs.read_run(folder)["base"]["place"]), folder, stage, gone)
    with progress.phase("take over", sum(unit.size for unit in units), 0) as advance:
        for unit in run(executor, "take", units, job, folder):
            advance(unit.size)
    return [one.name for one in old], [one.name for one in lacking]


def _check_ledger(folder: Folder, part: Folder) -> None:
    mine = run_folder.read_inventory(part, ["uri"])["uri"].combine_chunks()
    listed = runs.read_ledger(folder, ["uri"])["uri"]
    if int(pc.sum(pc.is_in(mine, listed.combine_chunks()), min_count=0).as_py()) < len(mine):
        raise InputError(f"the ledger of {folder} is not of its base: `lucidflux-data select {folder}` decides again")


def check_strip_of_base(folder: Folder, settings: ShardConfig) -> None:
    """ConfigError where the base was stripped otherwise: its shards stay, and one set says one thing of its files."""
    part = part_of(folder)
    if part is None:
        return
    card = run_folder.read_claim(part, PUBLISHED).get("stripped")
    base = (sorted(card["tags"]), card.get("unsupported", "keep")) if card else ([], settings.strip_unsupported)
    if base != (sorted(settings.strip), settings.strip_unsupported):
        word = f"--strip {','.join(base[0])} --strip-unsupported {base[1]}" if base[0] else "without --strip"
        raise ConfigError(f"the base was packed {word}, and its shards stay as they are: pack the new images so, too")


def renew_part(folder: Folder) -> None:
    """Makes the part of the base again where it is damaged: from the base, which has to be there and the same."""
    part = part_of(folder)
    if part is None:
        return
    about = runs.read_run(folder)
    if _is_whole(part):
        return
    part.remove("")
    made = take_base(folder, about["base"]["place"], FilterConfig.model_validate(about["config"]))
    if made["manifest_sha256"] != about["base"]["manifest_sha256"]:
        run_folder.write_about(folder, about)
        raise InputError(f"{about['base']['place']} is another set now: select with it as --base again")


def _is_whole(part: Folder) -> bool:
    try:
        rows = run_folder.read_inventory(part).num_rows
        read_entries(part)
        part.read_table(ORIGINALS)
        return not strays.find_damaged_units(part) and runs.read_basic(part).num_rows == rows
    except (LucidFluxError, FileNotFoundError):
        return False
