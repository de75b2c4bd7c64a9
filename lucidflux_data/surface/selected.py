"""`Selection`: what other rules decide about the candidates of a run, before anything is written."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit.report import list_funnel
from lucidflux_data.config import Changes, changes_between
from lucidflux_data.errors import ConfigError, LucidFluxError
from lucidflux_data.measures import firewall
from lucidflux_data.selection import decision, ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, label
from lucidflux_data.selection.ledger import Counts
from lucidflux_data.selection.suites import copy_name
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from lucidflux_data.surface.frames import as_frame
from lucidflux_data.surface.shown import ImageRow, make_figures, render, say_changes

SHOWN = 6  # thumbnails of what comes in, and of what goes out


class Selection:
    """The decision of `Run.select`, which nothing but `save` writes.

    `config`: the rules; `changed`: those that are others than the run's, as [before, now] by name; `keys`: of the
    images that are kept, in order of the ledger.
    """

    def __init__(self, trial: decision.Trial) -> None:
        self._trial = trial
        self.config: FilterConfig = trial.config
        before = FilterConfig.model_validate(trial.run["config"])
        self.changed: Changes = changes_between(before, trial.config)

    def __repr__(self) -> str:
        counts = self.counts()
        return f"Selection({str(self._trial.folder)!r}: {counts['kept']:,} of {counts['candidates']:,} kept)"

    def counts(self) -> Counts:
        """How many candidates are kept, rejected and failed, by reason."""
        return ledger.count_codes(self._trial.decided[0])

    @cached_property
    def _table(self) -> pa.Table:
        return self._trial.make_ledger()

    def ledger(self, kind: Literal["pyarrow", "pandas", "polars"] = "pyarrow") -> Any:
        """The ledger that `select` would write, as of `Run.ledger`."""
        return as_frame(self._table, kind)

    @property
    def keys(self) -> list[str]:
        found: list[str] = self._table.filter(pc.field("keep"))["key"].to_pylist()
        return found

    @property
    def added(self) -> list[str]:
        """Keys of images that are kept by these rules and not by the run's."""
        before = set(self._kept_before())
        return [key for key in self.keys if key not in before]

    @property
    def removed(self) -> list[str]:
        """Keys of images that are kept by the run's rules and not by these."""
        now = set(self.keys)
        return [key for key in self._kept_before() if key not in now]

    def _kept_before(self) -> list[str]:
        folder = self._trial.folder
        if not folder.exists(runs.LEDGER):
            return []
        kept: list[str] = runs.read_ledger(folder, ["key", "keep"], pc.field("keep"))["key"].to_pylist()
        return kept

    def save(self, path: str | os.PathLike[str]) -> str:
        """Writes the selection as a run of its own, as `lucidflux-data select RUN --out PATH` does; `pack` makes its
        shards. Gives the folder, for `Run(...)`.

        Raises ConfigError where the folder holds something already, InputError where a list or a joined file is gone.
        """
        trial, target = self._trial, Folder(os.path.expanduser(path))
        if "base" in trial.run:
            raise ConfigError(
                f"{trial.folder} adds to a set, and a new folder would not: `lucidflux-data select {trial.folder}`"
            )
        if target.exists() and (target.names() or target.folders()):
            raise ConfigError(f"{target} is not empty: a selection is saved into a new folder")
        compared = {item: suite.compared for item, suite in trial.suites.items()}
        with hold(target, 0.0, new=True):
            decision.combine(target, [trial.folder], trial.config, trial.run["preset"])
            for item, suite in trial.suites.items():
                target.publish(f"{firewall.PLACE}/{copy_name(item)}", suite.data)
            decision.write_decision(target, trial.pool, trial.config, compared)
        return str(target)

    def _repr_html_(self) -> str:
        """What is changed, the funnel, and some of the images that come in and go out."""
        trial, counts = self._trial, self.counts()
        title = f"{counts['kept']:,} of {counts['candidates']:,} kept, nothing written"
        lines = [label(trial.run["preset"], self.config)]
        try:
            kept_before = set(self._kept_before())
        except LucidFluxError as error:
            lines, kept_before = [*lines, str(error)], set()
        sheets = []
        for name, rows in (("Comes in", self._some(kept_before, True)), ("Goes out", self._some(kept_before, False))):
            sheets.append((f"{name}, the first by key:", make_figures(rows, self.config.decode)))
        return render("run.html.j2", title=title, lines=lines, changed=say_changes(self.changed),
                      funnel=list_funnel(counts), sheets=sheets)  # fmt: skip

    def _some(self, kept_before: set[str], keep: bool) -> list[ImageRow]:
        """Some of those that are kept now and were not before, or the other way round."""
        before = pc.is_in(self._table["key"], pa.array(sorted(kept_before), pa.string()))
        differ = pc.and_(pc.equal(self._table["keep"], keep), pc.not_equal(before, keep))
        columns = ["key", "uri", "source_key", "offset", "bytes", "keep", "reason"]
        found: list[ImageRow] = self._table.filter(differ).select(columns).sort_by("key").slice(0, SHOWN).to_pylist()
        return found
