"""`Run`: a run of the filter, looked at from Python. It reads; only `Selection.save` writes, into a new folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import explain as explaining
from lucidflux_data.audit.forget import is_half_done
from lucidflux_data.audit.nearest import NEAR_IN_WORDS, describe_none_near, find_nearest
from lucidflux_data.audit.report import list_funnel
from lucidflux_data.audit.what_if import Tried, describe_trial
from lucidflux_data.errors import ConfigError, ImageError, InputError, LucidFluxError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.selection import decision, ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.columns import gather
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.ledger import Counts
from lucidflux_data.selection.options import SelectOptions, as_settings, option_settings
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder, configure
from lucidflux_data.storage.journal import is_left
from lucidflux_data.surface.explained import Explained
from lucidflux_data.surface.frames import as_frame
from lucidflux_data.surface.selected import Selection
from lucidflux_data.surface.shown import ImageRow, Sheet, make_figures, render

Settings = str | Iterable[str] | Mapping[str, object]
Frame = Literal["pyarrow", "pandas", "polars"]
IMAGE_COLUMNS = ["key", "uri", "source_key", "offset", "bytes", "keep", "reason"]
SHOWN = 8  # thumbnails of a run


class Run:
    """A run of the filter: `Run("run")`, or a url of one.

    path: a folder that `lucidflux-data filter` or `score` made. Raises InputError where it is none, and where a command
    was cut off while it changed the folder.

    >>> run = Run("run")
    >>> run.counts()["candidates"] == run.ledger().num_rows
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = Folder(os.path.expanduser(path))
        self._read()

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _read(self) -> runs.FilterRun:
        """run.json as it is now."""
        if is_left(self.folder) or is_half_done(self.folder):
            raise InputError(
                f"{self.folder} was left while its files changed: `lucidflux-data verify {self.folder}` finishes it"
            )
        run = runs.read_run(self.folder)
        configure(FilterConfig.model_validate(run["config"]).storage.model_dump())
        return run

    @property
    def config(self) -> FilterConfig:
        """The rules in force, and how the scores were made."""
        return FilterConfig.model_validate(self._read()["config"])

    def ledger(self, kind: Frame = "pyarrow", columns: Sequence[str] | None = None) -> Any:
        """Every candidate with its decision (records.LedgerRow), as a pyarrow.Table, or a pandas or polars DataFrame.

        `columns`: those alone. Raises InputError where nothing was selected yet, ConfigError for a column that is not
        there, for another kind, and where pandas or polars is not installed.
        """
        self._read()
        table = runs.read_ledger(self.folder)
        for name in columns or ():
            if name not in table.column_names:
                raise ConfigError(f"the ledger has no column {name!r}: it has {', '.join(table.column_names)}")
        return as_frame(table if columns is None else table.select(list(columns)), kind)

    def counts(self) -> Counts:
        """How many candidates were kept, rejected and failed, by reason. InputError where nothing was selected yet."""
        self._read()
        return ledger.counts(runs.read_ledger(self.folder, ["keep", "reason"]))

    def near(self, measure: str, value: float, count: int = 12) -> Sheet:
        """The `count` images nearest to a value of a measure, half from each side, in order of the measure.

        `measure`: laplacian_variance, flat_fraction, min_side, the metric, or any column of numbers that --where may
        name. Of the first two, what is not near at all is left out, and `note` says so. Raises ConfigError for a
        measure that nothing has, or that is no number.
        """
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"near takes a number, not {value!r}") from None
        if measure == "row" or count < 1:
            raise ConfigError(f"near takes a measure, and a count from 1 on, not {measure}, {count}")
        run = self._read()
        about = runs.read_ledger(self.folder, IMAGE_COLUMNS)
        table = about.append_column("row", pa.array(np.arange(about.num_rows)))
        table = table.append_column(measure, self._measure(run, measure)) if measure not in IMAGE_COLUMNS else table
        kind = table.schema.field(measure).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise ConfigError(f"{measure} holds {kind}, no numbers: nothing is near a value of it")
        found = find_nearest(table, measure, value, count)
        rows: list[ImageRow] = []
        for row in found.to_pylist():
            columns = {name: row[name] for name in IMAGE_COLUMNS}
            rows.append({**columns, "value": float(row[measure])})  # type: ignore[typeddict-item]
        near = measure in NEAR_IN_WORDS and not rows
        note = describe_none_near(table, measure, value) if near else "" if rows else "no image has it"
        return Sheet(f"Nearest to {measure} = {value:g}", rows, note, self.config.decode)

    def _measure(self, run: runs.FilterRun, measure: str) -> pa.ChunkedArray:
        """A column of any table of the run, a row for each of the ledger."""
        config = FilterConfig.model_validate(run["config"])
        names = ["width", "height"] if measure == "min_side" else [measure]
        pool = load_pool(runs.parts(self.folder))
        found = gather(pool, ["uri", *names], config)
        column = pc.min_element_wise(found["width"], found["height"]) if measure == "min_side" else found[measure]
        places = pc.index_in(runs.read_ledger(self.folder, ["uri"])["uri"], found["uri"].combine_chunks())
        return column.take(places)

    def images(self, keys: str | Iterable[str]) -> list[np.ndarray]:
        """The pixels of images by key, uint8 HxWx3 sRGB, upright, in order of the keys.

        `keys`: one or some; a column of the ledger does as well. Raises InputError for a key that no candidate has, and
        for an image that is gone, has changed or does not decode.
        """
        decode = self.config.decode
        listed = keys.to_pylist() if hasattr(keys, "to_pylist") else [keys] if isinstance(keys, str) else list(keys)
        where = pc.field("key").isin(pa.array(listed, pa.string()))
        about = {row["key"]: row for row in reversed(runs.read_ledger(self.folder, IMAGE_COLUMNS, where).to_pylist())}
        found = []
        for key in listed:
            if key not in about:
                raise InputError(f"{key} is the key of no candidate of {self.folder}")
            row = about[key]
            try:
                data = read_known(row["uri"], row["offset"], row["bytes"] or -1, key, most=decode.max_file_bytes)
                found.append(pixels_apart(data, decode))
            except ImageError as error:
                raise InputError(f"{row['uri']} cannot be used: {error.detail}") from None
        return found

    def select(self, settings: Settings = (), **options: Unpack[SelectOptions]) -> Selection:
        """What `lucidflux-data select` would decide with these settings, from the scores that exist; it writes nothing.

        `settings`: as `--set`, "rules.min_side=512", some of them, or a dict of sections, {"rules": {"min_side": 512}}.
        `options`: the command's short options (SelectOptions); they win over `settings`, and None takes back what the
        run has. Raises ConfigError for a setting that is wrong, and where a measure that the rules ask for was not
        taken of every image: it names the measure and the command that takes it.

        >>> selection = Run("run").select(min_side=256)
        >>> selection.counts()["kept"] == len(selection.keys)
        True
        """
        trial = self._try(settings, options)
        for measure, rows in trial.missing.rows.items():
            some, have = ("image", "has") if len(rows) == 1 else ("images", "have")
            raise ConfigError(
                f"{len(rows):,} {some} of {self.folder} {have} no {_say_measure(measure, trial.config)}: "
                f"`lucidflux-data select {self.folder}` with these settings takes it"
            )
        return Selection(trial)

    def what_if(self, settings: Settings = (), **options: Unpack[SelectOptions]) -> Tried:
        """How many images these settings would keep, beside how many are kept now; arguments as of `select`.

        `then` has the very counts of `select(...)`; it is None where measures are missing, and `kept` then says how
        many are kept at least. Raises InputError where nothing was selected yet.
        """
        now = self.counts()
        asked = [*as_settings(settings), *option_settings(options)]
        return describe_trial(self._try(settings, options), asked, now)

    def _try(self, settings: Settings, options: Mapping[str, object]) -> decision.Trial:
        base = FilterConfig.model_validate(self._read()["config"])
        config = make_config(settings=[*as_settings(settings), *option_settings(options)], base=base)
        return decision.try_rules(self.folder, config)

    def explain(self, image: str | os.PathLike[str]) -> Explained:
        """Why an image is, or is not, in the set: each rule beside its limit, its rank, and where it lies.

        `image`: a path, uri, key, sha256, name in the source, or member of a shard; several candidates may have it.
        Raises InputError for what is none of them, with near names.
        """
        self._read()
        return Explained(explaining.explain(self.folder, os.fspath(image)))

    def _repr_html_(self) -> str:
        """The label, the sums, the funnel, and some of the images that are kept. It raises nothing of ours."""
        title = str(self.folder).rsplit("/", 1)[-1]
        try:
            run, counts = self._read(), self.counts()
            rows: list[ImageRow] = (
                runs.read_ledger(self.folder, IMAGE_COLUMNS, pc.field("keep"))
                .sort_by("key")
                .slice(0, SHOWN)
                .to_pylist()
            )
            listed = runs.count_listed(run, counts["candidates"])
        except LucidFluxError as error:
            return render("sheet.html.j2", title=title, note=str(error), figures=[])
        lines = [run["label"], f"{listed['listed']:,} listed, {listed['ignored']:,} of them no candidates"]
        sheets = [("Kept, the first by key:", make_figures(rows, self.config.decode))]
        return render("run.html.j2", title=title, lines=lines, changed=[], funnel=list_funnel(counts), sheets=sheets)


def _say_measure(measure: str, config: FilterConfig) -> str:
    """A measure that is missing, in words."""
    if measure == "firewall":
        return f"comparison with {', '.join(config.select.forbid)} (firewall)"
    return f"{measure} score" if measure == config.iqa.metric else f"{measure} measures"
