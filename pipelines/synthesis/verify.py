"""`verify` of a folder of pairs: tables, hashes and, deep, every pair decoded and its plan drawn again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, cast

from lucidflux_data.audit.forget import finish_forgetting
from lucidflux_data.audit.forgotten import find_left
from lucidflux_data.errors import InputError, LucidFluxError, VerificationError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples as pair_samples
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import verify
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.journal import settle
from pipelines.execution.executor import Executor
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Unit
from pipelines.synthesis.job import synthesize


class PairsVerified(TypedDict):
    pairs: str
    samples: int
    problems: int  # none: they are an error
    deep: bool


def verify_pairs(folder: Folder, deep: bool, repair: bool, executor: Executor, progress: Progress) -> PairsVerified:
    """Raises VerificationError with every problem; with `repair`, what is broken is made again first."""
    if repair:
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
        for name in _stray(folder):
            folder.remove(name)
        synthesize(folder, pairs_run.read(folder), executor, progress)
        problems, broken, samples = _problems(folder, deep, executor, progress)
    if problems:
        raise VerificationError("; ".join(problems[:20]) + (f" (+{len(problems) - 20} more)" if problems[20:] else ""))
    return {"pairs": str(folder), "samples": samples, "problems": 0, "deep": deep}


def _problems(folder: Folder, deep: bool, executor: Executor, progress: Progress) -> tuple[list[str], list[str], int]:
    problems = check_set(folder)
    if not folder.exists(shards.MANIFEST):
        return problems, [], 0
    run, config = pairs_run.read(folder), pairs_run.read_config(folder)
    entries = shards.read_manifest(folder, halfway=True)["shards"]
    units = [Unit(entry["name"], entry["samples"], entry) for entry in entries]
    broken = []
    with progress.phase("verify", sum(unit.size for unit in units), 0) as advance:
        for unit, found in executor.map(units, CheckShard(folder, deep, config, tuple(run["sources"]))):
            problems += sorted(found)
            broken += [unit.name] if found else []
            advance(unit.size)
    return sorted(problems), sorted(broken), sum(unit.size for unit in units)


def check_set(folder: Folder) -> list[str]:
    """The manifest against the plan of the shards, drawn again from run.json and inputs/; no tar is opened."""
    try:
        run, config = pairs_run.read(folder), pairs_run.read_config(folder)
        manifest = shards.read_manifest(folder)
        planned = pairs_run.plan_shards(pairs_run.read_inputs(folder, config), config)
    except LucidFluxError as error:
        return [str(error)]
    problems = []
    if manifest["digests"].get("plan") != pairs_run.plan_digest(planned, config, run["backend"]):
        problems.append("the shards were planned from other inputs than those in inputs/")
    if [f"{shard.name}.tar" for shard in planned] != [entry["name"] for entry in manifest["shards"]]:
        problems.append("the manifest does not have the shards that run.json and inputs/ give")
    wanted = sum(len(pairs_run.used(shard)) for shard in planned)
    wanted -= sum(len(pair_samples.failed_images(folder, entry["name"])) for entry in manifest["shards"])
    if manifest["samples"] != wanted * config.variants:
        problems.append(f"the manifest has {manifest['samples']} pairs, not {wanted * config.variants}")
    problems += find_left(folder, [shard.name for shard in planned])
    return problems + [f"{name} is not in the manifest" for name in _stray(folder)]


def _stray(folder: Folder) -> list[str]:
    manifest = shards.read_manifest(folder, halfway=True)
    names = {entry["name"] for entry in manifest["shards"]}
    names |= {shards.index_name(name.removesuffix(".tar")) for name in names}
    return [f"shards/{name}" for name in sorted(set(folder.names("shards")) - names)]


def _damaged_inputs(folder: Folder) -> list[str]:
    damaged = []
    for name in folder.names(pairs_run.PLACE):
        try:
            folder.read_table(f"{pairs_run.PLACE}/{name}")
        except InputError:
            damaged.append(f"{pairs_run.PLACE}/{name}")
    return damaged


@dataclass(frozen=True)
class CheckShard:
    """A shard against its line of the manifest; `deep`: the sha256 of HQ and LQ, every pair decoded, sizes, plan."""

    folder: Folder
    deep: bool
    config: PairsConfig
    sources: tuple[str, ...]

    def __call__(self, unit: Unit) -> list[str]:
        problems = verify.check_shard(self.folder, unit.payload, False, self.config.decode.max_pixels, self.deep)
        if problems or not self.deep:
            return problems
        for key, rows in pair_samples.samples_of_index(self.folder, unit.name).items():
            members = pair_samples.read_sample(self.folder, unit.name, rows)
            problems += [f"shards/{unit.name}: {problem}" for problem in self._check(key, members)]
        return problems

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
