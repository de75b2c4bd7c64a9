"""Which output of `bench infer` belongs to which input: the sha256 of both in method.json, by seed and id.

That of an input stands there before its output is made, so that what a killed run has left is known too; that of the
output afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks.methods.method_file import MadeRecord, MethodFile
from benchmarks.suites.suite import images_by_id
from lucidflux_data.errors import ConfigError
from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.iqa.pins import file_sha256

Made = dict[str, MadeRecord]  # by id


def outputs_of(place: Path) -> dict[str, Path]:
    """The images that are in a folder of outputs already, by id."""
    if not place.is_dir() or not any(path.suffix.lower() in IMAGE_EXTENSIONS for path in place.iterdir()):
        return {}
    return images_by_id(place)


def check_seeds(about: MethodFile, folder: Path, seeds: list[int]) -> None:
    """ConfigError where the images that lie in `folder` itself are of another seed, or other seeds have folders in it:
    what is there would be taken for what was asked for."""
    before = {*about.get("runs", {}), *about.get("made", {})}
    other = sorted(before - {str(seed) for seed in seeds}, key=lambda seed: (len(seed), seed))
    if len(seeds) > 1 and outputs_of(folder):
        raise ConfigError(f"{folder} holds images of one seed, and each of several has a folder: choose another --out")
    if other and len(seeds) == 1:
        raise ConfigError(f"{folder} was made with seed {', '.join(other)}, not {seeds[0]}: choose another --out")


def remove_stale(folder: Path, seed: int, place: Path, inputs: Mapping[str, Path], made: Made) -> list[str]:
    """Removes from `place` outputs of inputs that are others now, and outputs that are no longer what was made; gives
    their ids. What a killed run has left in `folder` goes too, where an input is another. Into `made` goes the input of
    each output that is to be made. What an earlier version made without a record is left as it is."""
    stale, there = [], outputs_of(place)
    for id_, path in inputs.items():
        now, before = file_sha256(path), made.get(id_)
        replaced = before is not None and before["input_sha256"] != now
        cut = before is not None and id_ in there and before.get("sha256") not in (None, file_sha256(there[id_]))
        if replaced or cut:
            stale.append(id_)
            if id_ in there:
                there.pop(id_).unlink()
        if id_ not in there:
            made[id_] = {"input_sha256": now}
    for work in folder.glob(f".work-{seed}-*") if stale else ():
        shutil.rmtree(work)
    return stale


def record_outputs(place: Path, inputs: Mapping[str, Path], made: Made) -> None:
    """Puts the sha256 of each new output into `made`; what was not made has no record."""
    there = outputs_of(place)
    for id_ in inputs.keys() & made.keys():
        if id_ not in there:
            del made[id_]
        elif "sha256" not in made[id_]:
            made[id_]["sha256"] = file_sha256(there[id_])


def tell_foreign(about: MethodFile, outputs: Mapping[str, Mapping[str, str]], lq: Mapping[str, Path]) -> list[str]:
    """Sentences on outputs that were made of other inputs than `lq`, or are not what was made, as far as there are
    records. `outputs`: seed -> id -> sha256. The one run of a method without seed folders may have had any seed."""
    made = about.get("made", {})
    inputs = outputs_changed = 0
    for seed, hashes in outputs.items():
        records = next(iter(made.values())) if len(made) == 1 else made.get(seed, {})
        for id_ in hashes.keys() & records.keys():
            inputs += id_ in lq and file_sha256(lq[id_]) != records[id_]["input_sha256"]
            outputs_changed += records[id_].get("sha256", hashes[id_]) != hashes[id_]
    told = {"made of other inputs than these": inputs, "changed since `bench infer` made them": outputs_changed}
    return [f"{what}: {count} images" for what, count in told.items() if count]
