"""Synthesis: clean images into shards of HQ/LQ pairs; one task writes one shard with all variants of its images.

    sources -> inputs/ (keys, sizes, what is too small) -> shards are planned -> shards/ -> manifest.json

A filter run tells keys and sizes itself; of other sources every image is read once and its header is looked at.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from lucidflux_data.audit.forgotten import holds_any
from lucidflux_data.config import digest
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.degradation import backends
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import decode_in_worker
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs import samples
from lucidflux_data.pairs.config import PairsConfig
from lucidflux_data.pairs.job import PLACE, PairInput, PairsRun, PairsSummary
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import Shard, TarWriter
from lucidflux_data.sources import listing as sources
from lucidflux_data.sources.counts import describe_ignored
from lucidflux_data.sources.listing import Candidate
from lucidflux_data.sources.uris import split_member
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder, trust_sources
from lucidflux_data.storage.formats import checked_bytes, parse_json
from lucidflux_data.storage.journal import STAGE, Rewriting, settle
from lucidflux_data.storage.run_folder import forgotten_keys
from pipelines.execution.counting import count_done, counted
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress, warn
from pipelines.execution.worker import File, Unit


@dataclass(frozen=True)
class ProbeUnit:
    """Reads the candidates of a unit: key, size in pixels, or why one cannot be used."""

    decode: DecodeConfig

    def __call__(self, unit: Unit[list[Candidate]]) -> Iterator[File]:
        rows = [pairs_run.probe_row(row, self.decode, unit.attempt) for row in counted(unit.payload)]
        yield f"{PLACE}/{unit.name}.parquet", checked_bytes(pairs_run.make_inputs(rows))


@dataclass(frozen=True)
class SynthesizeShard:
    """Writes one shard of pairs into `place`: the tar, then its index."""

    config: PairsConfig
    sources: tuple[str, ...]
    backend: str
    device: str
    plan_digest: str
    place: str

    def __call__(self, unit: Unit[list[pairs_run.PairInput]]) -> Iterator[File]:
        writer = TarWriter()
        failed: list[samples.FailedImage] = []
        yield f"{self.place}/{unit.name}.tar", writer.chunks(self._samples(unit, writer, failed))
        more = {samples.FAILED: json.dumps(failed)}
        yield f"{self.place}/{shards.index_name(unit.name)}", writer.index_bytes(self.plan_digest, more)

    def _samples(
        self, unit: Unit[list[pairs_run.PairInput]], writer: TarWriter, failed: list[samples.FailedImage]
    ) -> Iterator[tuple[str, dict[str, bytes]]]:
        degrade = backends.load_backend(self.backend, self.device)
        versions = pairs.versions(self.backend, self.device)
        for row in unit.payload:
            try:
                data = pairs_run.read_clean(row, self.config.decode)
                image = decode_in_worker(data, self.config.decode, unit.attempt)
            except ImageError as error:
                if row["crc32"] is not None:
                    raise InputError(f"{row['uri']} does not decode: {error.detail}") from None
                detail = error.detail if error.reason != "changed" else "the bytes are not those that were listed"
                failed.append({"key": row["key"], "reason": error.reason, "detail": detail})
                count_done(self.config.variants)
                continue
            clean_image: pairs.CleanImage = {
                "key": row["key"],
                "source_key": row["source_key"],
                "group": row["group"],
                "carried": row["carried"],
                "good_tiles": row.get("good_tiles"),
                "versions": versions,
                "ref": pointer(row, self.sources, zlib.crc32(data)),
            }
            for variant in range(self.config.variants):
                pair = pairs.make_pair(data, image, clean_image, variant, self.config, degrade)
                writer.sha256s.append(shards.sample_sha256(pair.members))
                yield pair.key, pair.members
                count_done()


def pointer(row: PairInput, asked: tuple[str, ...], crc32: int) -> pairs.Pointer:
    """Where a clean image lies, relative to the source it was found in (so that the source may move as a whole)."""
    place = split_member(row["uri"]) if row["offset"] >= 0 else row["uri"]
    for number, source in enumerate(asked):
        if place == source or place.startswith(f"{source}/"):
            path = place.removeprefix(source).lstrip("/")
            return {"source": number, "path": path, "offset": row["offset"], "size": row["size"], "crc32": crc32}
    return {"source": -1, "path": place, "offset": row["offset"], "size": row["size"], "crc32": crc32}


def check_sources(asked: list[str]) -> None:
    """Checks the sources before anything is written. Raises ConfigError or InputError."""
    trust_sources(asked)
    found = [source for source in asked if Folder(source).exists(shards.MANIFEST)]
    if found and len(asked) > 1:
        raise ConfigError("give either one run of the filter, or other sources")
    for source in found:
        if pairs_run.is_pairs(Folder(source)):
            raise ConfigError(f"{source} holds pairs already: give clean images")
    if not found and not any(mark in source for source in asked for mark in "*?["):
        for source in asked:
            if source.startswith("file://") and not Folder(source).exists():
                raise InputError(f"{source.removeprefix('file://')} is not there")


def list_inputs(
    folder: Folder, asked: list[str], config: PairsConfig, limit: int | None, executor: Executor, progress: Progress
) -> None:
    """Publishes what is missing of inputs/. The first listing stays in force."""
    found = [Folder(source) for source in asked if Folder(source).exists(shards.MANIFEST)]
    if found:
        if not folder.names(PLACE):
            table = pairs_run.inputs_of_run(found[0])
            table = table if limit is None else sources.sample(table, limit, seed=0)
            folder.publish(f"{PLACE}/{run_folder.unit_name(0)}.parquet", checked_bytes(table))
        return
    if not folder.exists(run_folder.INVENTORY):
        listing = sources.list_sources(asked)
        table = listing.table if limit is None else sources.sample(listing.table, limit, seed=0)
        left_out = listing.table.num_rows - table.num_rows
        kinds = listing.ignored_by | ({"not_drawn": left_out} if left_out else {})
        ignored = sum(kinds.values())
        counts = {"total": table.num_rows + ignored, "ignored": ignored, "ignored_by": kinds}
        about = {**run_folder.read_about(folder), "listed": {**counts, "warnings": listing.all_warnings()}}
        run_folder.write_about(folder, about)
        run_folder.write_inventory(folder, table)
        progress.say(f"{table.num_rows:,} candidates, {describe_ignored(kinds)}")
    for warning in pairs_run.read(folder).get("listed", {}).get("warnings", []):  # on resuming, too
        warn(warning)
    inventory = run_folder.read_inventory(folder)
    size = run_folder.unit_size(inventory.num_rows)
    there = set(folder.names(PLACE))
    numbers = [n for n in range(-(-inventory.num_rows // size)) if f"{run_folder.unit_name(n)}.parquet" not in there]
    slices = {n: inventory.slice(n * size, size) for n in numbers}
    units = [Unit(run_folder.unit_name(n), rows.num_rows, rows.to_pylist()) for n, rows in slices.items()]
    total = sum(unit.size for unit in units)
    with progress.phase("read headers", total, inventory.num_rows - total) as advance:
        for unit in run(executor, "headers", units, ProbeUnit(config.decode), folder):
            advance(unit.size)


def synthesize(folder: Folder, about: PairsRun, executor: Executor, progress: Progress) -> PairsSummary:
    """Publishes the shards that are not there yet, then the manifest. `about`: pairs_run.make_run. Gives a summary."""
    config = PairsConfig.model_validate(about["config"])
    settle(folder)
    folder.sweep()
    list_inputs(folder, about["sources"], config, about["limit"], executor, progress)
    planned = pairs_run.assign_shards(pairs_run.read_inputs(folder, config), config)
    if not planned:
        raise InputError(f"no image can be used: {_why(folder, config)}")
    plan_digest = pairs_run.digest_assignment(planned, config, about["backend"])
    lacking = _lacking(folder, planned, plan_digest)
    stage, todo = _stage(folder, lacking, plan_digest)
    device = "cuda" if executor.num_gpus and about["backend"] == "torch" else "cpu"
    job = SynthesizeShard(config, tuple(about["sources"]), about["backend"], device, plan_digest, stage)
    units = [Unit(s.name, len(rows) * config.variants, rows) for s in todo for rows in [pairs_run.list_used(s)]]
    total = sum(unit.size for unit in units)
    done_before = sum(len(pairs_run.list_used(shard)) for shard in planned) * config.variants - total
    with progress.phase("synthesize", total, done_before) as advance:
        for unit in run(executor, "synthesize", units, job, folder, stateful=device == "cuda"):
            advance(unit.size)
    digests = {**about["digests"], "plan": plan_digest}
    staged = {} if stage == "shards" else dict.fromkeys((shard.name for shard in lacking), stage)
    manifest = shards.make_manifest(folder, "shards", [shard.name for shard in planned], digests, staged)
    change = Rewriting(folder, shards.known_hashes(folder))
    for name in staged:
        shards.move_shard(change, stage, name)
    content = {**parse_json(manifest), **run_folder.describe_forgotten(folder)}
    change.put(shards.MANIFEST, shards.seal_manifest(folder, content))
    change.commit()
    folder.sweep()
    return pairs_run.summary(folder)


def _lacking(folder: Folder, planned: list[Shard[PairInput]], plan_digest: str) -> list[Shard[PairInput]]:
    """The shards that are not there or, where a `forget` was interrupted, hold what it was to take out."""
    names, gone = set(folder.names("shards")), forgotten_keys(folder)
    done = {s.name for s in planned if shards.is_complete(folder, "shards", s.name, names, plan_digest)}
    return [s for s in planned if s.name not in done or (gone and holds_any(folder, s.name, gone))]


def _stage(folder: Folder, lacking: list[Shard[PairInput]], plan_digest: str) -> tuple[str, list[Shard[PairInput]]]:
    """Where the shards are written that lack, and those that are not there yet: a new set in place, those of a set that
    was published aside."""
    if not folder.exists(shards.MANIFEST):
        return "shards", lacking
    stage = f"{STAGE}/{digest([plan_digest, sorted(forgotten_keys(folder))])[:16]}"
    names = set(folder.names(stage))
    return stage, [s for s in lacking if not shards.is_complete(folder, stage, s.name, names, plan_digest)]


def _why(folder: Folder, config: PairsConfig) -> str:
    reasons = pairs_run.read_inputs(folder, config)["reason"].value_counts().to_pylist()
    left_out = ", ".join(f"{row['counts']} {row['values']}" for row in reasons) or "the source is empty"
    hint = f" (--size {config.degrade.size} is the least side that is taken)" if "too_small" in left_out else ""
    return left_out + hint
