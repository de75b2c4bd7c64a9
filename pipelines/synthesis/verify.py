"""`verify` of a folder of pairs: tables, hashes and, deep, every pair decoded and its plan drawn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, cast

from lucidflux_data.audit import strays
from lucidflux_data.audit.forget import finish_forgetting
from lucidflux_data.audit.forgotten import find_left
from lucidflux_data.audit.verify import check_forgotten, describe_unsealed, refuse_unfit
from lucidflux_data.errors import InputError, LucidFluxError, VerificationError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import verify
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.journal import settle
from pipelines.execution.counting import count_done
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress, warn
from pipelines.execution.worker import Unit
from pipelines.filter.checking import check_shards
from pipelines.synthesis.job import synthesize


class PairsVerified(TypedDict):
    pairs: str
    samples: int
    problems: int  # none: they are an error
    deep: bool
    warnings: list[str]


def verify_pairs(folder: Folder, deep: bool, repair: bool, executor: Executor, progress: Progress) -> PairsVerified:
    """Raises VerificationError with every problem; with `repair`, what is broken is made again first.

    Nothing is made again from a run.json that no longer fits its own digests.
    """
    if repair:
        refuse_unfit(folder, check_digests(folder) + _check_list(folder))
        settle(folder)
        folder.sweep()
    problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems and repair and finish_forgetting(folder):
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems and repair:
        for name in broken:
            folder.remove(f"shards/{name}")
        for name in _damaged_inputs(folder):
            folder.remove(name)
        _clear_manifest(folder)
        synthesize(folder, pairs_run.read(folder), executor, progress)
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems:
        raise VerificationError("; ".join(problems[:20]) + (f" (+{len(problems) - 20} more)" if problems[20:] else ""))
    unrecorded = describe_unsealed(folder)
    for sentence in unrecorded:
        warn(sentence)
    return {"pairs": str(folder), "samples": samples, "problems": 0, "deep": deep, "warnings": unrecorded}


def check_digests(folder: Folder) -> list[str]:
    """Whether run.json fits the digest that it has of itself, which a file without a seal has, too."""
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    made = pairs_run.make_run(config, run["label"], run["backend"], run["sources"], run["limit"])["digests"]
    return [] if made == run["digests"] else [f"{run_folder.RUN_FILE} does not fit its own digests"]


def _clear_manifest(folder: Folder) -> None:
    """A manifest that cannot be read goes: `synthesize` writes it again. Files that a readable one does not list move
    to stray/."""
    try:
        names = _stray(folder)
    except VerificationError:
        folder.remove(shards.MANIFEST)
    else:
        strays.move_aside(folder, names)


def _problems(folder: Folder, deep: bool, executor: Executor, progress: Progress) -> tuple[list[str], list[str], int]:
    problems = check_set(folder)
    try:
        manifest = shards.read_manifest(folder, halfway=True)
    except VerificationError:
        return problems, verify.find_unfit(folder), 0
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    job = CheckPart(folder, deep or folder.exists(run_folder.FORGOTTEN), deep, config, tuple(run["sources"]))
    found, broken, samples = check_shards(manifest, deep, job, executor, progress)
    if not broken:
        problems += verify.check_manifest(folder, manifest)
    return sorted(problems + found), broken, samples


def check_set(folder: Folder) -> list[str]:
    """The manifest against the plan of the shards, drawn again from run.json and inputs/; no tar is opened."""
    try:
        run, config = pairs_run.read(folder), pairs_run.read_config(folder)
        manifest = shards.read_manifest(folder)
        if folder.exists(run_folder.INVENTORY):
            run_folder.read_inventory(folder)
        planned = pairs_run.assign_shards(pairs_run.read_inputs(folder, config), config)
    except LucidFluxError as error:
        return [str(error)]
    problems = check_digests(folder)
    if manifest["digests"].get("plan") != pairs_run.digest_assignment(planned, config, run["backend"]):
        problems.append("the shards were planned from other inputs than those in inputs/")
    if [f"{shard.name}.tar" for shard in planned] != [entry["name"] for entry in manifest["shards"]]:
        problems.append("the manifest does not have the shards that run.json and inputs/ give")
    wanted = sum(len(pairs_run.list_used(shard)) for shard in planned)
    wanted -= sum(len(pair_samples.failed_images(folder, entry["name"])) for entry in manifest["shards"])
    if manifest["samples"] != wanted * config.variants:
        problems.append(f"the manifest has {manifest['samples']} pairs, not {wanted * config.variants}")
    problems += find_left(folder, [shard.name for shard in planned]) + _check_list(folder)
    return problems + [strays.describe_stray(name) for name in _stray(folder)]


def _check_list(folder: Folder) -> list[str]:
    """Whether the list of forgotten images is the one that the manifest was written with."""
    try:
        manifest = shards.read_manifest(folder)
        names = [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]
        return check_forgotten(folder, manifest.get(run_folder.FORGOTTEN_SUM), names)
    except (InputError, VerificationError):  # another check names it
        return []


def _stray(folder: Folder) -> list[str]:
    """VerificationError where there is no manifest that can be read."""
    listed = [entry["name"] for entry in shards.read_manifest(folder, halfway=True)["shards"]]
    return strays.find_stray_shards(folder, listed)


def _damaged_inputs(folder: Folder) -> list[str]:
    damaged = []
    for name in folder.names(pairs_run.PLACE):
        try:
            pairs_run.read_input_unit(folder, name)
        except InputError:
            damaged.append(f"{pairs_run.PLACE}/{name}")
    return damaged


@dataclass(frozen=True)
class CheckPart:
    """`contents`: as of `verify.check_part`; `deep`: every pair decoded, sizes, plan."""

    folder: Folder
    contents: bool
    deep: bool
    config: PairsConfig
    sources: tuple[str, ...]

    def __call__(self, unit: Unit[verify.Part]) -> verify.Checked:
        check = self._check if self.deep else None
        return verify.check_part(self.folder, unit.payload, self.contents, check, count_done)

    def _check(self, key: str, members: dict[str, bytes]) -> list[str]:
        expected = {"json", "lq.png"} if self.config.hq == "ref" else {"json", "lq.png", "hq"}
        if {"hq" if name.startswith("hq.") else name for name in members} != expected:
            return [f"{key} has the members {', '.join(sorted(members))}"]
        found = verify.read_record(members["json"])
        if found is None or found.get("key") != key:
            return [f"{key}: its json is of another pair"]
        record = cast(pairs.PairRecord, found)
        try:
            data = pair_samples.stored_hq(members, record, list(self.sources))
            hq, lq = pairs.hq_pixels(record, data, self.config.degrade.crop), pixels_apart(members["lq.png"])
        except ImageError as error:
            return [f"{key} does not decode: {error.detail}"]
        except InputError as error:
            return [str(error)]
        return pairs.check_pair(record, hq, lq, self.config.degrade)
