"""Columns from outside: users' scores, joined Parquet files, and what stood beside an image in its source.

A name is looked for in the run's own columns, then in users' scores, then in the joined files in the order given, then
in the json beside the image. A joined file names its images by `uri`, `key`, `sha256` or `source_key`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import ConfigError, InputError, suggest
from lucidflux_data.measures import firewall
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.expression import columns_of
from lucidflux_data.selection.pool import Pool, concat_rows
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import find_unportable, make_portable
from lucidflux_data.tiles import table as tile_table

OWN = (
    "uri",
    "key",
    "source_key",
    "sha256",
    "bytes",
    "format",
    "width",
    "height",
    "flags",
    "laplacian_variance",
    "flat_fraction",
)
# The ledger, and the json of a sample, have these of their own.
TAKEN = (
    "keep",
    "reason",
    "rank",
    "group",
    "leak",
    "offset",
    "side",
    "scored_as",
    "stripped",
    "normalized",
    "good_tiles",
)
JOIN_KEYS = ("uri", "key", "sha256", "source_key")
OF_BASE = "published"  # the measure that holds what a published set says of its images beside their basic measures


def list_columns(config: FilterConfig) -> list[str]:
    """The names in --where, --carry and --quota, each once, in order."""
    select = config.select
    limits = [one.rpartition("=")[0] for one in select.quota]
    names = [*(columns_of(select.where) if select.where else []), *select.carry, *limits]
    return list(dict.fromkeys(names))


def check_columns(config: FilterConfig) -> None:
    """What is wrong with --where, --carry and --join whatever the images are, before any is measured. ConfigError for a
    name that is taken, and for a joined column that cannot travel; InputError as `read_join`."""
    names = list_columns(config)
    _check_names(names)
    if config.select.where_tile:
        check_tile_columns(config)
    for place in config.select.join:
        table = read_join(place)
        for name in names:
            if name in table.column_names and name not in OWN:
                check_travels(name, table.schema.field(name).type, place)


def check_tile_columns(config: FilterConfig) -> None:
    """ConfigError for a column of --where-tile that tiles do not have, and where no tiles are measured."""
    if not config.measures.tiles:
        raise ConfigError("--where-tile needs tiles: `lucidflux-data score --tiles 512` measures them, into a new run")
    metric = config.iqa.metric
    known = [*tile_table.COLUMNS, *([metric] if metric != "none" else [])]
    for name in columns_of(config.select.where_tile or "true"):
        if name not in known:
            raise ConfigError(f"--where-tile has no column {name!r}: {suggest(name, known, len(known))}")


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name in TAKEN:
            raise ConfigError(f"the name {name!r} is taken: the ledger has a column of its own called so; rename yours")


def check_travels(name: str, kind: pa.DataType, place: str) -> None:
    """ConfigError for a column whose values have no form in the json of a sample."""
    odd = find_unportable(kind)
    if odd is not None:
        inside = "" if odd == str(kind) else f" (in a {kind})"
        raise ConfigError(
            f"the column {name!r} of {place} cannot be used: it holds {odd} values{inside}, which have no form in "
            "JSON; cast it to text or numbers, or leave it out"
        )


def gather(pool: Pool, names: Sequence[str], config: FilterConfig) -> pa.Table:
    """`names` as columns, a row for each candidate of the pool. ConfigError for a name that nobody has, with near ones,
    for one that is taken, and for a column that cannot travel."""
    _check_names(names)
    columns: dict[str, pa.ChunkedArray] = {}
    own = {name: concat_rows(pool, [basic[name] for basic in pool.basics]) for name in OWN if name in names}
    for name in names:
        if name in own:
            columns[name] = own[name]
    if len(columns) < len(names):
        columns |= _from_scores(pool, [name for name in names if name not in columns])
    for place in config.select.join:
        if len(columns) < len(names):
            columns |= _from_join(pool, place, [name for name in names if name not in columns])
    if len(columns) < len(names):
        columns |= _from_sides(pool, [name for name in names if name not in columns])
    columns |= _from_base(pool, names, columns)
    missing = [name for name in names if name not in columns]
    if missing:
        there = sorted({*OWN, *columns, *_joinable(config)})
        raise ConfigError(f"nothing has a column {missing[0]!r}: {suggest(missing[0], there)}")
    for name in names:
        check_travels(name, columns[name].type, "this selection")
    return pa.table({name: columns[name] for name in names})


def _from_scores(pool: Pool, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Columns of users' scorers and of our own further measures; of those of benchmark images, the one in force."""
    found: dict[str, pa.ChunkedArray] = {}
    folders = {name for part in pool.parts for name in part.folder.folders("scores")} - {"basic", OF_BASE}
    folders = {name for name in folders if name == pool.leaks or not name.startswith(firewall.PREFIX)}
    for measure in sorted(folders):
        tables = [pool.measure(number, measure) for number in range(len(pool.parts))]
        for name in names:
            if name not in found and any(table is not None and name in table.column_names for table in tables):
                kind = next(t.schema.field(name).type for t in tables if t is not None and name in t.column_names)
                found[name] = pool.column(measure, name, kind)
    return found


def _from_base(pool: Pool, names: Sequence[str], columns: dict[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """Columns that have nothing for the images of the base, with what the published set itself says of them."""
    if pool.arrays.base is None:
        return {}
    found = {}
    tables = [pool.measure(number, OF_BASE) for number in range(len(pool.parts))]
    for name in names:
        kinds = [table.schema.field(name).type for table in tables if table is not None and name in table.column_names]
        if kinds and name not in OWN:
            published = pool.column(OF_BASE, name, kinds[0])
            found[name] = published if name not in columns else _filled(name, columns[name], published)
    return found


def _filled(name: str, column: pa.ChunkedArray, published: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.coalesce(column, published.cast(column.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"the column {name!r} is {published.type} in the base and {column.type} here: they cannot be combined"
        ) from None


def _from_join(pool: Pool, place: str, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    table = read_join(place)
    by = next(name for name in JOIN_KEYS if name in table.column_names)
    mine = [name for name in names if name in table.column_names]
    if not mine:
        return {}
    own = concat_rows(pool, [basic[by] for basic in pool.basics])
    rows = pc.index_in(own, table[by].combine_chunks(), skip_nulls=True)
    return {name: table[name].combine_chunks().take(rows) for name in mine}


def read_join(place: str) -> pa.Table:
    """A joined file. InputError where it is not there or names no images, or names one twice."""
    folder, _, name = place.rpartition("/")
    try:
        table = Folder(folder or ".").read_table(name)
    except FileNotFoundError:
        raise InputError(f"{place} is not there") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise InputError(f"{place} is damaged, or no Parquet file") from None
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise InputError(f"{place} has two columns called {twice[0]!r}: which of them counts?")
    by = next((key for key in JOIN_KEYS if key in table.column_names), None)
    if by is None:
        raise InputError(
            f"{place} has none of the columns {', '.join(JOIN_KEYS)}: nothing says which images it is about"
        )
    try:
        table = table.cast(pa.schema([(field.name, _plain_text(field, by)) for field in table.schema]))
    except (pa.ArrowException, UnicodeDecodeError):
        raise InputError(f"the column {by} of {place} is {table[by].type}, not text: it names no images") from None
    if pc.count_distinct(table[by]).as_py() < table.num_rows - table[by].null_count:
        raise InputError(f"{place} has a {by} twice: which of its rows counts?")
    return table


def _plain_text(field: pa.Field, by: str) -> pa.DataType:
    """The type that a joined column is taken as: Arrow does not take rows of views."""
    if field.name == by or pa.types.is_string_view(field.type):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(field.type) else field.type


def join_digests(config: FilterConfig) -> dict[str, str]:
    """sha256 of each joined file and opt-out list: another content is another selection."""
    digests = {}
    for place in (*config.select.join, *config.select.opt_out):
        folder, _, name = place.rpartition("/")
        try:
            digests[place] = hashlib.sha256(Folder(folder or ".").read(name)).hexdigest()
        except FileNotFoundError:
            raise InputError(f"{place} is not there") from None
    return digests


def _joinable(config: FilterConfig) -> list[str]:
    return [name for place in config.select.join for name in read_join(place).column_names]


def _from_sides(pool: Pool, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Values of the json beside an image; text where their kinds differ from row to row."""
    sides = concat_rows(pool, [run_folder.read_inventory(part.folder, ["side"])["side"] for part in pool.parts])
    values: dict[str, list[Any]] = {name: [None] * len(sides) for name in names}
    for row in np.flatnonzero(pc.is_valid(sides).to_numpy(zero_copy_only=False)):
        content = make_portable(json.loads(sides[int(row)].as_py()))
        if isinstance(content, dict):
            for name in names:
                values[name][row] = content.get(name)
    found = {}
    for name, column in values.items():
        if any(value is not None for value in column):
            found[name] = _column(column)
    return found


def _column(values: list[Any]) -> pa.Array:
    try:
        array = pa.array(values)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])


def find_opted_out(pool: Pool, config: FilterConfig) -> np.ndarray | None:
    """bool: on a list by sha256, key or uri, or a copy of something that is. None without a list."""
    if not config.select.opt_out:
        return None
    listed = pa.array(sorted({entry for place in config.select.opt_out for entry in read_list(place)}), pa.string())
    own = {name: concat_rows(pool, [basic[name] for basic in pool.basics]) for name in ("sha256", "key", "uri")}
    named = np.zeros(len(pool.arrays), bool)
    for column in own.values():
        named |= pc.is_in(column, listed).to_numpy(zero_copy_only=False)
    keys = pc.drop_null(own["key"].filter(pa.array(named)))
    out: np.ndarray = named | pc.is_in(own["key"], keys).to_numpy(zero_copy_only=False)
    return out


def read_list(place: str) -> list[str]:
    """One sha256, key or uri a line; `#` starts a comment. InputError where the list is not there."""
    folder, _, name = place.rpartition("/")
    try:
        text = Folder(folder or ".").read(name).decode("utf-8", "replace")
    except FileNotFoundError:
        raise InputError(f"the opt-out list {place} is not there") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_carried(pool: Pool, config: FilterConfig) -> pa.Table:
    """The columns that the ledger gets beside its own: those of --where and --carry, and the image a leak shows."""
    table = gather(pool, list_columns(config), config)
    if not config.select.forbid:
        return table
    empty = pa.chunked_array([pa.nulls(len(pool.arrays), pa.string())])
    leaks = empty if pool.leaks is None else pool.column(pool.leaks, "leak", pa.string())
    return pa.table({name: table[name] for name in table.column_names} | {"leak": leaks})
