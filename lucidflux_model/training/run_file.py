"""Whose a run folder is, and which data the run was begun with.

    RUN/run.json     what the run is; `TrainConfig.fixed_settings` must be the same when it goes on
    RUN/data.json    a digest of what each tar holds, so that a changed one can be named

Data that changed end a run that goes on, unless the user says that they may (`--data-changed`). That is recorded, and
from there on the run is no exact repetition of anything: it goes on with the next epoch, over the new data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from lucidflux_data.config import digest, dotted
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import canonical_json, parse_json
from lucidflux_data.storage.run_folder import RUN_FILE
from lucidflux_model.samples.listed import NOTHING, Listed
from lucidflux_model.samples.reading import GO_ON, DataChanged
from lucidflux_model.samples.sources import PairSource, contents_of, forgotten_of, listed_of
from lucidflux_model.samples.stream import split
from lucidflux_model.training.checkpoints import latest
from lucidflux_model.training.config import TrainConfig
from lucidflux_model.training.contamination import join_marks, mark_of_run
from lucidflux_model.weights.tensors import MARK

KIND, DATA, CHANGES = "train", "data.json", "data_changed"
NAMED = 5  # tars in a message


class DataAbout(TypedDict):
    """What run.json says of the data: `digest` over pairs and contents, how many `pairs`, images that were
    `forgotten` from them."""

    digest: str
    pairs: int
    forgotten: int


class Change(TypedDict):
    """Data that changed and were gone on with. `after_step`: of the checkpoint before; `what`: a sentence."""

    after_step: int
    what: str


@dataclass(frozen=True)
class Data:
    """The data of a run now. `pairs`: ShardPairs.digest; `contents`: a digest of each tar by its name or uri; `listed`
    is in no digest."""

    pairs: str
    contents: Mapping[str, str]
    about: DataAbout
    listed: Listed
    split_before: bool  # whether a version that took names for groups would hold out the same

    @classmethod
    def of(cls, source: PairSource, held: np.ndarray, fraction: float) -> Data:
        contents, pairs = contents_of(source), source.digest()
        # The order of tars counts, their names do not: data may be moved.
        whole = digest([pairs, list(contents.values())])
        about: DataAbout = {"digest": whole, "pairs": len(source), "forgotten": forgotten_of(source)}
        return cls(pairs, contents, about, listed_of(source), _is_split_as_before(source, held, fraction))


def _is_split_as_before(source: PairSource, held: np.ndarray, fraction: float) -> bool:
    if not fraction or not contents_of(source):
        return True
    keys = [source.key(index, 0) for index in range(len(source))]
    groups = [_image_of(key) if group == key else group for key, group in zip(keys, source.groups, strict=True)]
    return np.array_equal(split(groups, fraction)[1], held)


def _image_of(key: str) -> str:
    head, _, variant = key.rpartition("_")
    return head if head and variant.isdigit() else key


@dataclass(frozen=True)
class Claim:
    """What decides whether a folder is of this very run. `mark`: suites that the run is validated on, from now on or
    already; they stay, whatever later commands say. `data_changed`: whether data may be others than before."""

    config: TrainConfig
    sources: Sequence[str]
    data: Data
    base: str
    label: str
    init: str | None
    mark: Sequence[str] = ()
    data_changed: bool = False

    @property
    def fixed_settings(self) -> dict[str, Any]:
        return {**self.config.fixed_settings(), "base_sha256": self.base, "pairs_sha256": self.data.pairs}


def claim_run(out: Path, asked: Claim, say: Callable[[str], None] = print) -> None:
    """Writes run.json and data.json, or checks that the folder is of this very run. Raises ConfigError naming what
    differs, DataChanged where that is the data."""
    folder, lasting = Folder(out), asked.fixed_settings
    run: dict[str, Any] = {"schema_version": 1, "kind": KIND, "sources": [absolute_url(s) for s in asked.sources]}
    run |= {"init": asked.init, "lasting": lasting, "config": asked.config.model_dump(), "digest": digest(lasting)}
    run |= {"label": asked.label, "data": asked.data.about, "listed": asked.data.listed}
    if marked := join_marks(asked.mark, mark_of_run(out)):
        run[MARK] = marked

    def resume(before: dict[str, Any]) -> bool:
        changes = compare(out, before, asked, say)
        if changes:
            run[CHANGES] = changes
        return True

    claim(folder, run, "is not empty and holds no training run", resume)
    folder.publish(DATA, canonical_json({"digest": asked.data.about["digest"], "tars": dict(asked.data.contents)}))


def compare(out: Path, before: dict[str, Any], asked: Claim, say: Callable[[str], None]) -> list[Change]:
    """The changes of data that the run has gone on with, one of now included. Errors as of claim_run."""
    if before.get("kind") != KIND:
        raise ConfigError(f"{out} is a folder of something else: choose another --out")
    changes: list[Change] = list(before.get(CHANGES, []))
    checkpoint = latest(out)
    if checkpoint is None:
        return []
    then, now = dotted(before["lasting"]), dotted(parse_json(canonical_json(asked.fixed_settings)))
    changed = sorted(name for name in {*then, *now} - {"pairs_sha256"} if then.get(name) != now.get(name))
    if changed:
        raise ConfigError(
            f"{out} was begun with another {', '.join(changed)}: choose another --out, with --init {out} to go on "
            "from its weights"
        )
    what = _what_changed(out, before, asked.data, say)
    if what is None:
        return changes
    if not asked.data_changed:
        raise DataChanged(
            f"{out} was begun with other data: {what}. {GO_ON} (what it does from there repeats no other run exactly); "
            f"another --out with --init {out} begins anew from its weights"
        )
    say(f"the data changed: {what}; from here on the run repeats no other run exactly")
    return [*changes, {"after_step": int(checkpoint.name.rpartition("-")[2]), "what": what}]


def _what_changed(out: Path, before: Mapping[str, Any], data: Data, say: Callable[[str], None]) -> str | None:
    """A sentence; None where the data are those of before."""
    same_pairs = before["lasting"].get("pairs_sha256") == data.pairs
    then: DataAbout | None = before.get("data")
    if then is None:  # of a version that recorded no contents
        if not same_pairs:
            what = "keys or sizes of its pairs differ (their contents were not recorded before this version)"
            count = data.about["forgotten"]
            return what + (f"; `lucidflux-data forget` has taken {count} image(s) out of them" if count else "")
        if not data.split_before:
            return "names of pairs are no groups any more, and other pairs would be held out for validation"
        say("warning: the contents of the data were not recorded before this version: they are from now on")
        return None
    if then["digest"] == data.about["digest"]:
        return None
    differences = [_name_tars(out, then["digest"], data.contents)]
    if then["pairs"] != data.about["pairs"]:
        differences.append(f"{then['pairs']:,} pairs before, {data.about['pairs']:,} now")
    gone = data.about["forgotten"] - then["forgotten"]
    if gone > 0:
        differences.append(f"`lucidflux-data forget` took {gone} image(s) out of them since")
    return "; ".join(part for part in differences if part) or "other images, or the same in another order"


def _name_tars(out: Path, of: str, contents: Mapping[str, str]) -> str:
    """Which tars changed, came or went since data.json was written; '' where it is not of the data `of`."""
    try:
        about = parse_json((out / DATA).read_text())
        before: dict[str, str] = about["tars"] if about["digest"] == of else {}
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    if not before:
        return ""
    parts = {
        "changed": [name for name in contents if name in before and before[name] != contents[name]],
        "is new": [name for name in contents if name not in before],
        "is gone": [name for name in before if name not in contents],
    }
    named = [f"{name} {how}" for how, names in parts.items() for name in names]
    return ", ".join(named[:NAMED]) + (f" and {len(named) - NAMED:,} more" if len(named) > NAMED else "")


def starts_epoch(run: Path, step: int) -> bool:
    """Whether the data changed after the checkpoint of `step`: the run goes on from it with the next epoch."""
    return any(change["after_step"] >= step for change in changes_of(run))


def changes_of(run: Path) -> list[Change]:
    """Changes of the data that a run has gone on with."""
    try:
        found: list[Change] = parse_json((run / RUN_FILE).read_text()).get(CHANGES, [])
    except FileNotFoundError:
        return []
    return found


def warnings_of(run: Path) -> list[str]:
    """What the listing of a run's data had to warn of."""
    try:
        found: list[str] = parse_json((run / RUN_FILE).read_text()).get("listed", NOTHING)["warnings"]
    except FileNotFoundError:
        return []
    return found


def check_split(held: int, pairs: int, fraction: float, largest: tuple[str, int]) -> None:
    """InputError where over twice the asked share would be held out. `largest`: the largest group that would be, and
    its pairs."""
    if held > 2 * fraction * pairs:
        raise InputError(
            f"validation.fraction={fraction:g} would hold out {held:,} of {pairs:,} pairs ({held / pairs:.1%}), over "
            f"twice of what is asked: groups stay whole, and the group {largest[0]} alone has {largest[1]:,} pairs; "
            "set validation.fraction higher, or to 0 for none"
        )
