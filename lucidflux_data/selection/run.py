"""A run folder: run.json, the inventory, the units, and the digests that say whether a command may go on in it."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, NotRequired, TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.config import digest, written_values
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.measures.firewall import Compared, make_card
from lucidflux_data.selection import records
from lucidflux_data.selection.config import FilterConfig, label
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder, configure, trust_sources
from lucidflux_data.storage.formats import read_schema, table_groups
from lucidflux_data.storage.run_folder import (
    FORGOTTEN,
    RUN_FILE,
    RunFile,
    check_about,
    read_about,
    unit_name,
    unit_size,
)

LEDGER = "selected.parquet"
BASIC = "scores/basic"
MEASURED_AGAIN = "measured_again"  # in run.json: the version that measured again what earlier decoders saw otherwise


@dataclass(frozen=True)
class Part:
    """A scored run that a ledger draws from. `included`: kept by hand, beside the rules; of those only what the
    ledger of `kept_by` keeps, where there is one. `base`: the images of the published set that is added to."""

    folder: Folder
    candidates: int
    included: bool = False
    kept_by: Folder | None = None
    base: bool = False


class Counted(TypedDict):
    """`candidates`: how many; `ignored`: what else was met, `ignored_by`: that by kind (counts.IGNORED)."""

    candidates: int
    ignored: int
    ignored_by: NotRequired[dict[str, int]]  # since 0.2


class Listed(Counted):
    """What was listed. `sources`: urls; `limit`, `seed`: of a sample of them, else None; `total`: candidates + ignored;
    `damaged_tars`: that could not be read to the end; `warnings`: a sentence each; `included`: of the runs kept
    beside the rules."""

    sources: list[str]
    limit: int | None
    seed: int | None
    total: NotRequired[int]  # since 0.3
    damaged_tars: NotRequired[list[str]]  # since 0.2
    warnings: NotRequired[list[str]]  # since 0.3
    included: NotRequired[list[Counted]]  # since 0.3
    allowed: NotRequired[list[str]]  # since 0.2; places below which uris of tables may lie


class Sums(TypedDict):
    """`listed` = the candidates + `ignored`; `ignored_by`: these by kind."""

    listed: int
    ignored: int
    ignored_by: dict[str, int]


class BaseCard(TypedDict):
    """The published set that is added to. `part`: the folder of its images, below the run; `place`: url of the set;
    `manifest_sha256`: of its manifest.json; `content_sha256`, `samples`: as that says; `shards`: how many; `version`:
    of its manifest; `differs`: a sentence for each setting that it was made with otherwise."""

    part: str
    place: str
    manifest_sha256: str
    content_sha256: str
    samples: int
    shards: int
    version: int
    differs: list[str]


class FilterRun(RunFile):
    """run.json of the filter. `version`: of the code that listed; `preset`: its name; `runs`, `included`: see
    `make_run`; `inputs`: sha256 of joined files and lists by their place; `firewall`: what the ledger was compared
    with, where suites are forbidden; `measured_again`: see MEASURED_AGAIN; `base`: where a set is added to."""

    version: NotRequired[str]  # since 0.1.1
    preset: str
    listed: Listed
    runs: list[str]
    included: list[str]
    inputs: dict[str, str]
    measured_again: NotRequired[str]
    firewall: NotRequired[Mapping[str, Compared]]
    base: NotRequired[BaseCard]


def make_run(
    config: FilterConfig,
    listed: Listed,
    preset: str,
    drawn_from: Sequence[str] = (),
    included: Sequence[str] = (),
    inputs: dict[str, str] | None = None,
    compared: Mapping[str, Compared] | None = None,
    base: BaseCard | None = None,
) -> FilterRun:
    """The content of run.json.

    `drawn_from`: urls of the runs whose candidates a combined run selects from (its own scores where there are none);
    `included`: urls of the runs whose images are kept beside the rules; `inputs`: sha256 of joined files and lists;
    `compared`: forbidden suites that the ledger was compared with. Their names are rules, their content is looked at by
    `select`: it is in the digest once there is a ledger. `base`: a published set that is added to.
    """
    asked: dict[str, object] = {"sources": listed["sources"], "limit": listed["limit"], "seed": listed["seed"]}
    if drawn_from:
        asked["runs"] = list(drawn_from)
    chosen = config.select_part() | ({"included": list(included)} if included else {})
    if inputs:
        chosen["inputs"] = inputs
    if base is not None:
        chosen["base"] = base["content_sha256"]
    suites = {item: compared[item] for item in config.select.forbid if item in compared} if compared else {}
    if suites:
        chosen["firewall"] = {item: entry["sha256"] for item, entry in suites.items()}
    decoders = made_with()
    run: FilterRun = {
        "schema_version": 1,
        "version": records.VERSION,
        "decoder_version": decoders["decoder_version"],
        "decoders": decoders["decoders"],
        "preset": preset,
        "label": label(preset, config, make_card(config.select.forbid, suites)["not_checked"]),
        "listed": listed,
        "runs": list(drawn_from),
        "included": list(included),
        "inputs": inputs or {},
        "config": {name: value for name, value in written_values(config).items() if name != "workers"},
        "digests": {
            "score": digest({"asked": asked, **config.score_part()}),
            "select": digest(chosen),
            "pack": digest(config.pack_part()),
        },
    }
    if config.select.forbid:
        run["firewall"] = suites
    if base is not None:
        run["base"] = base
    return run


def count_listed(run: FilterRun, candidates: int) -> Sums:
    """The sum of a run whose ledger has so many candidates. A run of 0.1 does not say the kinds."""
    found = count_together([run])
    kinds, elsewhere = dict(found["ignored_by"]), max(0, found["candidates"] - candidates)
    if elsewhere:
        kinds["of_other_runs"] = kinds.get("of_other_runs", 0) + elsewhere
    ignored = found["ignored"] + elsewhere
    return {"listed": candidates + ignored, "ignored": ignored, "ignored_by": kinds}


def count_together(parts: Sequence[FilterRun]) -> Counted:
    """What was listed for several runs, and for those that they include."""
    counted: list[Counted] = [one for run in parts for one in (run["listed"], *run["listed"].get("included", []))]
    counted += [{"candidates": run["base"]["samples"], "ignored": 0} for run in parts if "base" in run]
    kinds = sum((Counter(one.get("ignored_by", {})) for one in counted), Counter[str]())
    candidates, ignored = sum(one["candidates"] for one in counted), sum(one["ignored"] for one in counted)
    return {"candidates": candidates, "ignored": ignored, "ignored_by": dict(kinds)}


def renew_run(
    run: FilterRun,
    config: FilterConfig,
    inputs: dict[str, str],
    compared: Mapping[str, Compared] | None = None,
) -> FilterRun:
    """The content of run.json of the same run under other rules. Its version and its decoders stay: the scores are of
    those, and a run without a version is of one before 0.1.1. Without `compared` the ledger stays, and what it was
    compared with.
    """
    suites = run.get("firewall", {}) if compared is None else compared
    made = make_run(config, run["listed"], run["preset"], run["runs"], run["included"], inputs, suites, run.get("base"))
    kept = ("version", *made_with(), MEASURED_AGAIN)
    renewed = {name: value for name, value in made.items() if name not in kept}
    return cast(FilterRun, renewed | {name: value for name, value in run.items() if name in kept})


class MadeWith(TypedDict):
    """`decoder_version`: codecs/version.py; `decoders`: the versions of the libraries behind it."""

    decoder_version: int
    decoders: dict[str, str]


def made_with() -> MadeWith:
    """What run.json says of the decoders whose pixels the measures are of."""
    return {"decoder_version": version.DECODER_VERSION, "decoders": version.decoder_libraries()}


def decoder_version(run: RunFile) -> int:
    """Of a run.json; the first where it does not say."""
    return run.get("decoder_version", version.FIRST)


def parts(folder: Folder, inside: tuple[str, ...] = ()) -> list[Part]:
    """What the ledger of `folder` draws from: the base that it adds to, then included runs, so that of two rows for one
    uri theirs counts; then the runs of a combined run, or the run itself. InputError where one of them is gone.

    `inside`: the runs that are being looked into; one that leads back to one of them adds nothing to it.
    """
    run, inside = read_run(folder), (*inside, place_of(folder))
    found = []
    if "base" in run:
        part = Folder(f"{folder.url}/{run['base']['part']}")
        found.append(Part(part, read_run(part)["listed"]["candidates"], base=True))
    for inner in map(Folder, run["included"]):
        if place_of(inner) in inside:
            continue
        kept_by = inner if inner.exists(LEDGER) else None
        found += [
            replace(part, included=True, base=False, kept_by=kept_by or part.kept_by) for part in parts(inner, inside)
        ]
    if not run["runs"]:
        return [*found, Part(folder, run["listed"]["candidates"])]
    others = [other for other in map(Folder, run["runs"]) if place_of(other) not in inside]
    drawn = [replace(part, base=False) for other in others for part in parts(other, inside)]
    return sorted([*found, *drawn], key=lambda part: (not part.base, not part.included))


def place_of(folder: Folder) -> str:
    """One name for a folder, whatever way it is written and whatever links lead to it."""
    return os.path.realpath(folder.root) if folder.is_local else folder.url


def leads_to(inner: Folder, folder: Folder, seen: frozenset[str] = frozenset()) -> bool:
    """Whether the run `inner` is `folder`, includes it or draws from it, directly or by others."""
    if place_of(inner) == place_of(folder):
        return True
    if place_of(inner) in seen or not inner.exists(RUN_FILE):
        return False
    run = read_run(inner)
    return any(leads_to(Folder(url), folder, seen | {place_of(inner)}) for url in (*run["included"], *run["runs"]))


def with_forgotten(folder: Folder, config: FilterConfig) -> FilterConfig:
    """The config with the lists of what was forgotten in the run, and in all that its ledger draws from, among its
    opt-out lists: whatever lists a selection is given, a forgotten image stays out."""
    places = {place_of(one): one for one in (folder, *(part.folder for part in parts(folder)))}
    lists = [one.path(FORGOTTEN) if one.is_local else f"{one.url}/{FORGOTTEN}" for one in places.values()
             if one.exists(FORGOTTEN)]  # fmt: skip
    return _also_opted_out(config, lists)


def with_forgotten_of_ledger(run: FilterRun, config: FilterConfig) -> FilterConfig:
    """The config with the lists of forgotten images that the ledger in force was made with."""
    lists = run["config"]["select"]["opt_out"]
    return _also_opted_out(config, [place for place in lists if place.rpartition("/")[2] == FORGOTTEN])


def _also_opted_out(config: FilterConfig, lists: Sequence[str]) -> FilterConfig:
    missing = [place for place in lists if place not in config.select.opt_out]
    if not missing:
        return config
    return config.model_copy(
        update={"select": config.select.model_copy(update={"opt_out": (*config.select.opt_out, *missing)})}
    )


def read_run(folder: Folder) -> FilterRun:
    """run.json of an existing run of the filter. InputError where there is none."""
    about = read_about(folder)
    if "kind" in about or "listed" not in about:
        raise InputError(f"{folder} is not a run of the filter: it holds {about.get('kind', 'something else')}")
    run = cast(FilterRun, about)
    check_about(folder, about, FilterRun, FilterConfig)
    trust_sources(run["listed"]["sources"])
    configure({"paths_anywhere": "allowed" not in run["listed"]})  # it was listed before there was an allowance
    return run


def start_run(folder: Folder, run: FilterRun, steps: tuple[str, ...] = ("score", "select", "pack")) -> None:
    """Writes run.json, or checks that the one that is there asks for the same. Raises ConfigError."""

    def resume(about: FilterRun) -> bool:
        before = about.get("digests", {})
        if before.get("score") != run["digests"]["score"]:
            raise ConfigError(f"{folder} holds another run (other sources, sample or measures): choose another --out")
        for step in ("select", "pack"):
            if step in steps and before[step] != run["digests"][step]:
                raise ConfigError(
                    f"{folder} was made with other {'rules' if step == 'select' else 'shard limits'}: "
                    f"change them with `lucidflux-data {step} {folder} --set ...`"
                )
        return False

    claim(folder, run, "is not empty and is not a run", resume)


def read_ledger(folder: Folder, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
    """The ledger, or the rows of it for which `where` holds. InputError where nothing was selected yet."""
    groups = read_ledger_groups(folder, columns)
    return pa.concat_tables(groups if where is None else (group.filter(where) for group in groups))


def read_ledger_groups(folder: Folder, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The ledger, ROWS_IN_GROUP candidates at a time. InputError where nothing was selected yet."""
    _check_selected(folder)
    with _open_ledger(folder) as file:
        yield from table_groups(file, folder.path(LEDGER), None if columns is None else list(columns))


def ledger_schema(folder: Folder) -> pa.Schema:
    """The columns of the ledger. InputError where nothing was selected yet, and where it is damaged."""
    _check_selected(folder)
    with _open_ledger(folder) as file:
        return read_schema(file, folder.path(LEDGER))


def ledger_sha256(folder: Folder) -> str:
    """Of the ledger's bytes. InputError where nothing was selected yet."""
    _check_selected(folder)
    with _open_ledger(folder) as file:
        return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def _open_ledger(folder: Folder) -> IO[bytes]:
    """A local file is read as it is needed; from an object store the whole is one request."""
    return folder.open(LEDGER) if folder.is_local else io.BytesIO(folder.read(LEDGER))


def _check_selected(folder: Folder) -> None:
    if not folder.exists(LEDGER):
        read_run(folder)
        raise InputError(f"{folder} was scored but not selected: `lucidflux-data select {folder}`")


def read_basic(folder: Folder, columns: Sequence[str] | None = None) -> pa.Table:
    """All of scores/basic in inventory order. InputError where units are missing."""
    wanted = check_scored(folder, read_run(folder)["listed"]["candidates"])
    names = None if columns is None else list(columns)
    if not wanted:
        return records.BASIC.empty_table().select(names or records.BASIC.names)
    return pa.concat_tables(folder.read_tables((f"{BASIC}/{name}" for name in wanted), names))


def check_scored(folder: Folder, candidates: int) -> list[str]:
    """The names of the units of scores/basic, in order. InputError where some are missing."""
    wanted = [f"{unit_name(number)}.parquet" for number in range(-(-candidates // unit_size(candidates)))]
    missing = len(set(wanted) - set(folder.names(BASIC)))
    if missing:
        raise InputError(f"{folder} is not scored to the end ({missing} units missing): repeat the command")
    return wanted


def read_unit(folder: Folder, measure: str, number: int) -> pa.Table:
    """The rows of one unit of scores/<measure>."""
    return folder.read_table(f"scores/{measure}/{unit_name(number)}.parquet")


def read_measure(folder: Folder, measure: str) -> dict[int, pa.Table]:
    """The rows of scores/<measure> so far, by the number of their unit."""
    place = f"scores/{measure}"
    names = [name for name in folder.names(place) if name.startswith("unit-")]
    tables = folder.read_tables(f"{place}/{name}" for name in names)
    return {int(name[5:11]): table for name, table in zip(names, tables, strict=True)}
