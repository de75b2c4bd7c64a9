"""The files of tiles: RUN/tiles/basic/ has the measures of every tile of every image that could be read,
RUN/tiles/<metric>/ its score where the image was scored. A unit has the candidates of the unit of scores/ of its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.run_folder import unit_name, unit_size
from lucidflux_data.tiles.grid import list_boxes
from lucidflux_data.tiles.measure import TileRow

PLACE = "tiles"
BASIC = f"{PLACE}/basic"
HEAD = [
    pa.field("uri", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("x", pa.int32(), nullable=False),  # pixels, upright
    pa.field("y", pa.int32(), nullable=False),
]
SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("laplacian_variance", pa.float64()),
        pa.field("flat_fraction", pa.float64()),
        pa.field("blockiness", pa.float64()),
        pa.field("spectral_cutoff", pa.float64()),
    ]
)
COLUMNS = ("x", "y", "width", "height", "laplacian_variance", "flat_fraction", "blockiness", "spectral_cutoff")


def metric_schema(metric: str) -> pa.Schema:
    """`reason`: a failure of the metric on this tile."""
    return pa.schema([*HEAD, pa.field(metric, pa.float64()), pa.field("reason", pa.string())])


def make_table(rows: Iterable[tuple[str, str, Iterable[TileRow]]]) -> pa.Table:
    """SCHEMA, from (uri, key, tiles) of each image."""
    found = [{"uri": uri, "key": key, **tile._asdict()} for uri, key, tiles in rows for tile in tiles]
    return pa.Table.from_pylist(found, SCHEMA)


def read_known(folder: Folder, measure: str, unit: str, uris: Iterable[str]) -> pa.Table | None:
    """The rows of tiles/<measure> of some images of a unit that was written before; None where there is no file."""
    name = f"{PLACE}/{measure}/{unit}.parquet"
    wanted = pa.array(sorted(uris), pa.string())
    if not len(wanted) or not folder.exists(name):
        return None
    table = folder.read_table(name)
    return table.filter(pc.is_in(table["uri"], wanted))


def order_by(table: pa.Table, uris: Iterable[str]) -> pa.Table:
    """Rows in the order of their images, the tiles of each in theirs."""
    places = pc.index_in(table["uri"], pa.array(list(uris), pa.string())).to_numpy()
    return table.take(pa.array(np.argsort(places, kind="stable")))


def is_whole(table: pa.Table, schema: pa.Schema, images: Mapping[str, tuple[int, int]], side: int, all_: bool) -> bool:
    """Whether a unit has the tiles of its images, each once. `images`: width and height in pixels of those that can be
    read, by uri; `all_`: of every one of them, or of some."""
    if table.schema.names != schema.names:
        return False
    found: dict[str, list[tuple[int, int]]] = {}
    for uri, x, y in zip(*(table[name].to_pylist() for name in ("uri", "x", "y")), strict=True):
        found.setdefault(uri, []).append((x, y))
    if not found.keys() <= images.keys() or (all_ and found.keys() != images.keys()):
        return False
    return all([tuple(box[:2]) for box in list_boxes(*images[uri], side).tolist()] == at for uri, at in found.items())


def read_units(folder: Folder, candidates: int, metric: str | None) -> Iterator[tuple[int, pa.Table]]:
    """(number, SCHEMA with the column of `metric`, null where a tile has no score) of each unit. InputError where the
    run has no tiles."""
    names = set(folder.names(BASIC))
    for number in range(-(-candidates // unit_size(candidates))):
        name = f"{unit_name(number)}.parquet"
        if name not in names:
            raise InputError(f"{folder} has no tiles: `lucidflux-data score --tiles N` measures them, into a new run")
        table = folder.read_table(f"{BASIC}/{name}")
        yield number, table if metric is None else _with_metric(folder, table, metric, name)


def _with_metric(folder: Folder, table: pa.Table, metric: str, name: str) -> pa.Table:
    place = f"{PLACE}/{metric}/{name}"
    if not folder.exists(place):
        return table.append_column(metric, pa.nulls(table.num_rows, pa.float64()))
    scores = folder.read_table(place)
    both = [pc.binary_join_element_wise(*(one[part].cast(pa.string()) for part in ("uri", "x", "y")), "\n")
            for one in (table, scores)]  # fmt: skip
    return table.append_column(metric, scores[metric].take(pc.index_in(both[0], both[1].combine_chunks())))
