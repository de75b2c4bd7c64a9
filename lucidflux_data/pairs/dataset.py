"""Real-ESRGAN pairs on line: a torch Dataset over clean images, for anyone's trainer; no shards of pairs in between.

Importing `lucidflux_data` does not load this module: the name is looked up when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypedDict

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.degradation import backends
from lucidflux_data.degradation.config import DegradeConfig, make_degrade_config
from lucidflux_data.degradation.plan import draw_plan
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import APART, pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.selection.options import as_settings
from lucidflux_data.selection.tiling import COLUMN as TILES
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.storage import folder as storage
from lucidflux_data.storage.folder import Folder, absolute_url, trust_sources
from lucidflux_data.storage.run_folder import RUN_FILE, read_about

try:
    import torch
except ImportError:
    raise ImportError("RealESRGANPairs needs torch: pip install 'lucidflux[model]'", name="torch") from None


ROWS_AT_ONCE = 10_000  # as Python objects


class Item(TypedDict):
    """`hq`: uint8 3xSxS RGB, `lq`: uint8 3xsxs RGB; `key`: of the image; `variant`: the epoch."""

    hq: torch.Tensor
    lq: torch.Tensor
    key: str
    variant: int


class RealESRGANPairs(torch.utils.data.Dataset):  # type: ignore[misc]  # mypy does not follow torch
    """`dataset[i]` -> {"hq": uint8 3xSxS RGB, "lq": uint8 3xsxs RGB, "key": str, "variant": int}.

    Epoch e gives variant e of every image: the very pixels that `synthesize` stores (with hq=png or webp) for the same
    preset, settings and seed, whatever the number of workers. Call `set_epoch` before each epoch, as with a
    DistributedSampler; workers that persist see it too.

    hq_shards_or_folder: a run of the filter, HQ shards, or any SOURCE of the command line, or several sources; each a
    string or a path.
    settings: as `--set degrade...` without the `degrade.`, like "size=512" or "sharpen_hq=target", or a dict of them;
    `size=512` by name does the same, for every setting.
    allow_uris: prefixes of uris inside tables that may be read, as `--allow-uris`.
    on_error: "raise" ends the epoch at an image that is gone, has changed or does not decode; "skip" gives the next one
    that can be used, in key order and around the end, so that an index always gives the same pair. `replaced` counts
    such answers, those of all DataLoader workers together.
    skipped: names of the images that are too small or do not open, with the reason.
    warnings: a sentence for each source that could not be listed as a whole (a damaged tar, a folder behind a link).
    ignored_by: how many files, members and rows are no candidates, by kind (docs/curation.md).
    Raises ConfigError for a wrong setting, InputError for a source without a usable image.
    """

    def __init__(
        self,
        hq_shards_or_folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        preset: str = "realesrgan-x4",
        seed: int = 0,
        settings: str | Sequence[str] | Mapping[str, object] = (),
        on_error: Literal["skip", "raise"] = "raise",
        allow_uris: Sequence[str] = (),
        **named: object,
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise ConfigError(f"on_error is skip or raise, not {on_error!r}")
        self.on_error = on_error
        asked_for = [*as_settings(settings), *as_settings(named)]
        self.config: DegradeConfig = make_degrade_config(preset, [*asked_for, f"seed={seed}"])
        self._allowed = (allow_uris,) if isinstance(allow_uris, str) else tuple(allow_uris)
        given = hq_shards_or_folder
        asked = [os.fspath(one) for one in ([given] if isinstance(given, str | os.PathLike) else given)]
        self.skipped: dict[str, str] = {}
        self.warnings: list[str] = []
        self.ignored_by: dict[str, int] = {}
        self._sources = [absolute_url(item) for item in asked]
        self._trust()
        check_clean(asked)
        self.rows = CleanRows(self._list(asked))
        if not len(self.rows):
            raise InputError(f"none of the images of {', '.join(asked)} can be used at size {self.config.size}")
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._replaced = torch.multiprocessing.get_context("spawn").Value("q", 0)  # goes to workers however they start

    def set_epoch(self, epoch: int) -> None:
        """The variant that is given from now on, in this process and in running workers."""
        self._epoch.fill_(epoch)

    @property
    def replaced(self) -> int:
        """How often another image was given for one that could not be used, in this process and its workers."""
        return int(self._replaced.value)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        """Raises InputError where the image is gone, has changed or does not decode; with on_error="skip" only where
        that is so of every image."""
        variant = int(self._epoch)
        if self.on_error == "skip":
            index, (hq, lq) = self._next_usable(range(len(self.rows))[index], variant)
        else:
            hq, lq = self.pair(index, variant)
        return {"hq": as_tensor(hq), "lq": as_tensor(lq), "key": self.rows[index]["key"], "variant": variant}

    def pair(self, index: int, variant: int) -> tuple[np.ndarray, np.ndarray]:
        """(hq, lq) of any variant, uint8 HxWx3 RGB. Raises InputError as `dataset[i]` does."""
        row = self.rows[index]
        cv2.setNumThreads(1)
        self._trust()  # in a worker that was spawned, too
        try:
            pixels = pixels_apart(pairs_run.read_clean(row))
        except ImageError as error:
            message = error.detail if error.reason == "changed" else f"{row['uri']} cannot be read: {error.detail}"
            raise InputError(message) from None
        plan = draw_plan(row["key"], variant, self.config)
        hq, _ = pairs.cut(pixels, plan, self.config.crop, pairs.read_tiles(row.get("good_tiles")))
        return hq, backends.load_backend("cv2")(hq, plan)

    def _trust(self) -> None:
        trust_sources(self._sources)
        storage.allow_uris(self._allowed)

    def _next_usable(self, index: int, variant: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        last: InputError | None = None
        for step in range(len(self.rows)):
            here = (index + step) % len(self.rows)
            try:
                pair = self.pair(here, variant)
            except InputError as error:
                last = error
                continue
            if step:
                with self._replaced.get_lock():
                    self._replaced.value += 1
            return here, pair
        raise InputError(f"none of the {len(self.rows)} images can be used any more; the last: {last}")

    def _list(self, asked: list[str]) -> pa.Table:
        """The usable images in key order, as CleanRow; equal images once."""
        folder = Folder(asked[0])
        if len(asked) == 1 and folder.exists(shards.MANIFEST) and folder.exists(RUN_FILE):
            table = pairs_run.inputs_of_run(folder)
        else:
            listing = list_sources([absolute_url(item) for item in asked])
            self.warnings, self.ignored_by = listing.all_warnings(), listing.ignored_by
            table = _probed(listing.table)
        table = pairs_run.fill_reasons(table, self.config)
        unusable = table.filter(pc.is_valid(pc.field("reason"))).select(["source_key", "reason"]).to_pylist()
        self.skipped = {row["source_key"]: row["reason"] for row in unusable}
        return table.filter(pc.is_null(pc.field("reason"))).sort_by("key")


class CleanRows:
    """A sequence of CleanRow, kept as columns: what uris and groups share is kept once."""

    def __init__(self, table: pa.Table) -> None:
        place = pc.replace_substring_regex(table["uri"], r"[^/#]*\z", "").dictionary_encode()
        columns = {
            "place": place,
            "name": pc.replace_substring_regex(table["uri"], r"(?s)\A.*[/#]", ""),
            "group": table["group"].dictionary_encode(),
            **{name: table[name] for name in ("offset", "size", "crc32", "key", TILES) if name in table.column_names},
        }
        self._table = pa.table(columns).combine_chunks().unify_dictionaries()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> pairs_run.CleanRow:
        return self._rows(self._table.slice(range(len(self))[index], 1))[0]

    def __iter__(self) -> Iterator[pairs_run.CleanRow]:
        for first in range(0, len(self), ROWS_AT_ONCE):
            yield from self._rows(self._table.slice(first, ROWS_AT_ONCE))

    def _rows(self, table: pa.Table) -> list[pairs_run.CleanRow]:
        found = table.to_pylist()
        for row in found:
            row["uri"] = row.pop("place") + row.pop("name")
        rows: list[pairs_run.CleanRow] = found
        return rows


def check_clean(asked: Sequence[str]) -> None:
    """InputError where a source is a folder of ours that is no packed run of the filter, or one beside others."""
    for source in asked:
        if any(mark in source for mark in "*?[") or not Folder(source).exists(RUN_FILE):
            continue
        about: Mapping[str, object] = {**read_about(Folder(source))}
        if about.get("kind") == pairs_run.KIND:
            raise InputError(f"{source} holds pairs, not clean images: give what they were made of")
        if isinstance(about.get("kind"), str):
            raise InputError(f"{source} is a folder of the kind {about['kind']}, not of clean images")
        if "listed" in about and len(asked) > 1:
            raise InputError(f"{source} is a run of the filter: give it alone, or other sources")
        if "listed" in about and not Folder(source).exists(shards.MANIFEST):
            raise InputError(f"{source} has no {shards.MANIFEST}: `lucidflux-data pack` makes its shards")


def _probed(inventory: pa.Table) -> pa.Table:
    """INPUTS of listed candidates: every file is read once, for its key and its header."""
    rows = [pairs_run.probe_row(row, DecodeConfig(), APART) for row in inventory.to_pylist()]
    return pairs_run.make_inputs(rows)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 HxWx3 as uint8 3xHxW."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
