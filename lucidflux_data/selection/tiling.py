"""Good tiles: those of which --where-tile is true, and what they decide about their images."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.expression import columns_of, matches
from lucidflux_data.selection.pool import Pool
from lucidflux_data.selection.run import Part
from lucidflux_data.storage import run_folder
from lucidflux_data.tiles import table as tiles

COLUMN = "good_tiles"  # of the ledger, and of the json of a sample: left, top, width, height of each, in pixels


def waits_for_metric(config: FilterConfig) -> bool:
    """Whether --where-tile reads the score of the metric, which survivors alone have."""
    return config.iqa.metric in columns_of(config.select.where_tile or "true")


def find_too_few(pool: Pool, config: FilterConfig) -> np.ndarray:
    """bool over the pool: the image has tiles, of which none is good, or too small a share. Images of the base, and
    those kept by hand, have no such rule."""
    found = []
    for number, part in enumerate(pool.parts):
        few = np.zeros(part.candidates, bool)
        if not (part.base or part.included):
            good, all_ = _count(pool, number, config)
            few = (all_ > 0) & ((good == 0) | (good < (config.select.min_good_tiles or 0.0) * all_))
        found.append(few[pool.rows[number]])
    return np.concatenate(found) if found else np.zeros(0, bool)


def _count(pool: Pool, number: int, config: FilterConfig) -> tuple[np.ndarray, np.ndarray]:
    """int64: good tiles and all tiles of each candidate of a part."""
    part = pool.parts[number]
    good, all_ = np.zeros(part.candidates, np.int64), np.zeros(part.candidates, np.int64)
    size = run_folder.unit_size(part.candidates)
    for unit, table in tiles.read_units(part.folder, part.candidates, _metric(config)):
        own = pool.basics[number].read(["uri"], unit * size, (unit + 1) * size)["uri"].combine_chunks()
        rows = pc.index_in(table["uri"], own).to_numpy() + unit * size
        yes = matches(str(config.select.where_tile), table).to_numpy(zero_copy_only=False)
        all_ += np.bincount(rows, minlength=part.candidates)
        good += np.bincount(rows[yes], minlength=part.candidates)
    return good, all_


def _metric(config: FilterConfig) -> str | None:
    return config.iqa.metric if config.iqa.metric != "none" else None


def list_good(part: Part, kept: pa.Array, config: FilterConfig) -> dict[str, str]:
    """The good tiles of candidates of a part, by uri, as the ledger has them; `kept`: the uris that are asked for.
    Nothing of an image without a good one, as one kept by hand may be: crops of it are drawn anywhere."""
    found: dict[str, list[list[int]]] = {}
    for _, table in tiles.read_units(part.folder, part.candidates, _metric(config)):
        some = table.filter(pc.is_in(table["uri"], kept))
        some = some.filter(matches(str(config.select.where_tile), some)) if some.num_rows else some
        columns = [some[name].to_pylist() for name in ("uri", "x", "y", "width", "height")]
        for uri, *box in zip(*columns, strict=True):
            found.setdefault(uri, []).append(box)
    return {uri: json.dumps(boxes, separators=(",", ":")) for uri, boxes in found.items()}
