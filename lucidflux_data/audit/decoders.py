"""Runs that another version of the decoders measured, and which of their candidates it may have seen otherwise.

Decoder 1 gave other pixels of TIFF, GIF, PNG with 16 bits, and grey PNG with a transparent sample value; decoders 1
and 2 of AVIF, HEIC, BMP, and WebP and 16-bit PNG that move; all three of TIFF. Of a candidate that was measured the
tables know its format, its `mode` (`;16`; `1` and `L` with the flag `alpha`) and the flag `animated`. One that was not,
or that failed, is taken by the suffix of its name: whether a PNG or WebP is one its name does not show, so neither is.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.errors import ConfigError
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder

# Formats whose pixels are other ones since, by the decoder that made them.
OTHER = {1: ("tiff", "gif", "avif", "heic", "bmp"), 2: ("tiff", "avif", "heic", "bmp"), 3: ("tiff",)}
SUFFIX = r"(?i)\.(?P<kind>tiff?|gif|avif|heic|heif|bmp|dib)$"
KIND_OF = {"tif": "tiff", "heif": "heic", "dib": "bmp"}
MEASURED = ("format", "mode", "flags")


def check_decoder(folder: Folder) -> None:
    """Before more is measured into a run: ConfigError where decoders of another version measured it, or a run that it
    draws from, and may have seen some of its candidates otherwise."""
    for part in runs.parts(folder):
        made_by = runs.decoder_version(runs.read_run(part.folder))
        if made_by > version.DECODER_VERSION:
            raise ConfigError(
                f"{part.folder} was measured by decoder {made_by}, newer than the {version.DECODER_VERSION} that is "
                "known here: update lucidflux"
            )
        sentence = describe_affected(part.folder)
        if sentence:
            raise ConfigError(sentence)


def describe_affected(folder: Folder) -> str | None:
    """A sentence that names the command which measures those candidates again; None where there are none."""
    made_by = runs.decoder_version(runs.read_run(folder))
    if made_by >= version.DECODER_VERSION:
        return None
    kinds = Counter(kind for kind in affected_kinds(folder) if kind)
    if not kinds:
        return None
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"{folder} was made by decoder {made_by}, and decoder {version.DECODER_VERSION} of now may give other pixels "
        f"of {counts} of its candidates: `lucidflux-data retry {folder} --outdated` measures them again"
    )


def affected_kinds(folder: Folder) -> list[str]:
    """The format of each candidate of a run of an earlier decoder that it may have seen otherwise, "" for the others,
    in the order of the inventory."""
    made_by = runs.decoder_version(runs.read_run(folder))
    table = _measured(folder, run_folder.read_inventory(folder, ["source_key"]))
    suffix = pc.fill_null(pc.struct_field(pc.extract_regex(table["source_key"], SUFFIX), 0), "")
    by_name = pc.utf8_lower(suffix)
    for short, name in KIND_OF.items():
        by_name = pc.replace_substring_regex(by_name, f"^{short}$", name)
    always = pa.array(OTHER[made_by])
    by_name = pc.if_else(pc.is_in(by_name, always), by_name, "")
    kind, deep = table["format"], pc.match_substring_regex(table["mode"], r"16$")
    moves = _has_flag(table, "animated")
    of_png = pc.and_kleene(deep, moves)
    if made_by == 1:
        clear_grey = pc.and_kleene(pc.is_in(table["mode"], pa.array(["1", "L"])), _has_flag(table, "alpha"))
        of_png = pc.or_kleene(deep, clear_grey)
    other = pc.is_in(kind, always)
    for name, these in (("png", of_png), ("webp", moves)) if made_by < 3 else ():
        other = pc.or_kleene(other, pc.and_kleene(pc.equal(kind, name), these))
    by_table = pc.if_else(pc.fill_null(other, False), kind, "")
    formats: list[str] = pc.if_else(pc.is_null(kind), by_name, by_table).to_pylist()
    return formats


def _has_flag(table: pa.Table, flag: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(table["flags"], f"(^|,){flag}(,|$)")


def _measured(folder: Folder, inventory: pa.Table) -> pa.Table:
    """The inventory with the columns MEASURED of scores/basic, null where a unit is not there."""
    size = run_folder.unit_size(inventory.num_rows)
    there, parts = set(folder.names(runs.BASIC)), []
    empty = pa.schema([records.BASIC.field(name) for name in MEASURED])
    for number in range(-(-inventory.num_rows // size)):
        name, rows = f"{run_folder.unit_name(number)}.parquet", min(size, inventory.num_rows - number * size)
        if name in there:
            parts.append(folder.read_table(f"{runs.BASIC}/{name}", list(MEASURED)))
        else:
            parts.append(pa.table([pa.nulls(rows, field.type) for field in empty], schema=empty))
    measured = pa.concat_tables([empty.empty_table(), *parts])
    for name in MEASURED:
        inventory = inventory.append_column(name, measured[name])
    return inventory


def affected(folder: Folder) -> np.ndarray:
    """bool, one a candidate: `affected_kinds` that are not empty. All False for a run of this version."""
    if runs.decoder_version(runs.read_run(folder)) >= version.DECODER_VERSION:
        return np.zeros(run_folder.read_inventory(folder, ["uri"]).num_rows, bool)
    return np.array([bool(kind) for kind in affected_kinds(folder)], bool)
