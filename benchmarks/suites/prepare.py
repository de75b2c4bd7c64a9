"""`bench prepare NAME --from ARCHIVE`: checks a suite's images, lays them out and fingerprints them.

    ARCHIVE (folder, zip, tar) -> images by role and id -> checks -> SUITES/<name>/{lq,gt}/, suite.json, by one rename

The fingerprint is a sha256 over the sorted lines of id, role and sha256. A wrong, missing or extra image is an error
that names it. Suites with a `[synthesis]` table are made here from their HQ images, by our own degradation.
"""

from __future__ import annotations

import glob
import hashlib
import json
import secrets
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TypedDict

from benchmarks.suites.archives import Archive, opened
from benchmarks.suites.flagged import flag_references
from benchmarks.suites.ids import id_of
from benchmarks.suites.prompts import encode_prompts, read_prompts
from benchmarks.suites.suite import ImageRecord, Suite, SuiteRecord
from lucidflux_data.degradation.backends import versions
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.images import EXTENSION_OF, IMAGE_EXTENSIONS, ImageError, luma
from lucidflux_data.isolation import decode_apart, pixels_apart
from lucidflux_data.measures.fingerprints import fingerprint_file, known_suites
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold

FINGERPRINTS = "fingerprints.parquet"
BEFORE = "before"  # the suite that a new one replaces, until the new one is in its place
Images = dict[str, dict[str, bytes]]  # role (lq, gt) -> id -> encoded bytes


class Prepared(TypedDict):
    """What `bench prepare --json` prints."""

    suite: str  # name:version
    images: int  # ids
    flagged: dict[str, int]  # references that the filter would reject, by reason
    prompts: int
    bytes: int
    fingerprint: str
    folder: str
    firewall: str  # where `select --forbid NAME` finds its fingerprints


def makes_itself(suite: Suite) -> bool:
    """Whether a suite needs no archive: its images lie in the package."""
    return suite.synthesis is not None and suite.synthesis.photos is not None


def is_current(suite: Suite) -> bool:
    """Whether a suite is prepared, and by the libraries that are installed now where it was made here."""
    return suite.pinned and (suite.made_with is None or suite.made_with == versions("cv2"))


def prepare(
    suite: Suite, archive: Path | None, target: Path, prompts: Path | None = None, wait_s: float = 0.0
) -> Prepared:
    """Puts a suite into `target`, with the prompts of a folder (those that are there already stay), and returns a
    summary. InputError names the image that is missing, extra or wrong;
    VerificationError where a hash differs from the one that is pinned.

    It holds the folder of suites (storage/lease.py) for which it waits `wait_s` seconds."""
    with hold(Folder(target.parent), wait_s, new=True):
        return _prepare(suite, archive, target, prompts)


def _prepare(suite: Suite, archive: Path | None, target: Path, prompts: Path | None) -> Prepared:
    _put_back(target)
    if archive is None and not makes_itself(suite):
        raise ConfigError(f"--from is missing; {suite.name}: {suite.get}")
    if suite.synthesis is not None:
        from benchmarks.suites.made_here import make_pairs

        images, made_with = make_pairs(suite, archive), versions("cv2")
    else:
        made_with = None
        assert archive is not None
        with opened(archive) as names:
            images = _read(suite, archive, names)
    record = check(suite, images)
    record["flagged"] = flag_references(images.get("gt", {}))
    if made_with is not None:
        record["made_with"] = made_with
    if prompts is None and (target / "prompts").is_dir():
        prompts = target / "prompts"
    texts = encode_prompts(read_prompts(prompts, images["lq"], suite.prompt_record)) if prompts else {}
    prints = firewall_prints(suite, images)
    _publish(images, record, prints, texts, target)
    shared = firewall_file(suite)
    Folder(shared.parent).publish(shared.name, prints)
    size = sum(len(data) for by_id in images.values() for data in by_id.values())
    return {
        "suite": suite.label(),
        "images": len(record["images"]),
        "flagged": dict(sorted(Counter(record["flagged"].values()).items())),
        "prompts": sum(name.endswith(".txt") for name in texts),
        "bytes": size,
        "fingerprint": record["fingerprint"],
        "folder": str(target),
        "firewall": str(shared),
    }


def firewall_file(suite: Suite) -> Path:
    """Where `select --forbid NAME` looks for the fingerprints of a suite."""
    return known_suites() / f"{suite.name}.parquet"


def firewall_prints(suite: Suite, images: Images) -> bytes:
    """The fingerprints of all images of a suite, inputs and references: hashes and positions, no pixels."""
    each = ((f"{role}/{id_}", data) for role, by_id in images.items() for id_, data in by_id.items())
    pictures = ((name, data, luma(pixels_apart(data))) for name, data in each)
    return fingerprint_file(pictures, suite.name)


def _read(suite: Suite, path: Path, archive: Archive) -> Images:
    """The images of each role, from the first place of the layout that exists in the archive."""
    names = [name for name in archive.names() if Path(name).suffix.lower() in IMAGE_EXTENSIONS]
    names = [name for name in names if "__MACOSX" not in name and not Path(name).name.startswith(".")]
    images: Images = {}
    for role, places in suite.layout.items():
        found = _in_first_place(names, places)
        if not found:
            raise InputError(f"{path} has no images at any of {', '.join(places)} ({role} of {suite.name})")
        images[role] = {}
        for name in found:
            id_ = id_of(PurePosixPath(name))
            if id_ in images[role]:
                raise InputError(f"{path} has two {role} images of id {id_}")
            images[role][id_] = archive.read(name)
    return images


def _in_first_place(names: list[str], places: list[str]) -> list[str]:
    """Files directly in the first folder, at any depth, whose path ends in one of `places`; `.` is the top."""
    for place in places:
        wanted = PurePosixPath(place).parts
        found = []
        for name in names:
            parents = PurePosixPath(name).parts[:-1]
            if (not wanted and not parents) or (wanted and parents[-len(wanted) :] == wanted):
                found.append(name)
        if found:
            return sorted(found)
    return []


def check(suite: Suite, images: Images) -> SuiteRecord:
    """The content of suite.json. Raises as `prepare` does."""
    _check_ids(suite, images)
    described: dict[str, dict[str, ImageRecord]] = {}
    lines = []
    for id_ in sorted(images["lq"]):
        roles: dict[str, ImageRecord] = {}
        for role, by_id in images.items():
            roles[role] = _describe(suite, role, id_, by_id[id_])
            lines.append(f"{id_} {role} {roles[role]['sha256']}\n")
        if suite.scale and "gt" in roles:
            _check_pair(suite, id_, roles)
        described[id_] = roles
    return {
        "name": suite.name,
        "version": suite.version,
        "scale": suite.scale,
        "images": described,
        "fingerprint": hashlib.sha256("".join(lines).encode()).hexdigest(),
    }


def _check_ids(suite: Suite, images: Images) -> None:
    for role, by_id in images.items():
        if suite.ids is not None and suite.ids_verified:
            missing, extra = sorted(set(suite.ids) - set(by_id)), sorted(set(by_id) - set(suite.ids))
            if missing or extra:
                what = f"{missing[0]} is missing" if missing else f"{extra[0]} is no image of it"
                raise InputError(
                    f"{suite.name} ({role}): {what} ({len(missing)} missing, {len(extra)} extra of {suite.count})"
                )
        if len(by_id) != suite.count:
            raise InputError(f"{suite.name} has {suite.count} images, the archive has {len(by_id)} ({role})")
    for role, by_id in images.items():
        only = sorted(set(by_id) ^ set(images["lq"]))
        if only:
            raise InputError(f"{suite.name}: {only[0]} is an input or a reference alone ({len(only)} such ids, {role})")


def _describe(suite: Suite, role: str, id_: str, data: bytes) -> ImageRecord:
    """File name, sha256 and size of an image, decoded to be sure of it."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        header = decode_apart(data).header
    except ImageError as error:
        raise InputError(f"{suite.name}: {role}/{id_} is {error.reason}: {error.detail}") from None
    pinned = suite.pins[id_].sha256 if role == "lq" and id_ in suite.pins else None
    if pinned and pinned != sha256:
        raise VerificationError(f"{suite.name}: {role}/{id_} is another image: sha256 {sha256[:16]}, not {pinned[:16]}")
    wanted = suite.input_size if role == "lq" else suite.output_size
    if wanted and (header.width, header.height) != wanted:
        size = f"{header.width}x{header.height}, not {wanted[0]}x{wanted[1]}"
        raise InputError(f"{suite.name}: {role}/{id_} is {size}: another protocol?")
    file = f"{id_}.{EXTENSION_OF[header.format]}"
    return {"file": file, "sha256": sha256, "width": header.width, "height": header.height}


def _check_pair(suite: Suite, id_: str, roles: dict[str, ImageRecord]) -> None:
    small, large = roles["lq"], roles["gt"]
    scale = suite.scale or 1
    if (large["width"], large["height"]) != (small["width"] * scale, small["height"] * scale):
        raise InputError(f"{suite.name}: gt/{id_} is not {suite.scale} times as large as lq/{id_}")


def _publish(images: Images, record: SuiteRecord, prints: bytes, prompts: dict[str, bytes], target: Path) -> None:
    """Writes beside the target and renames: a prepared suite is whole or not there."""
    place, part = Folder(target.parent), f".{target.name}-{secrets.token_hex(4)}.part"
    files = Folder(target.parent / part)
    try:
        for role, by_id in images.items():
            for id_, data in by_id.items():
                files.publish(f"{role}/{record['images'][id_][role]['file']}", data)
        for name, text in prompts.items():
            files.publish(f"prompts/{name}", text)
        files.publish(FINGERPRINTS, prints)
        files.publish("suite.json", (json.dumps(record, indent=1) + "\n").encode())
        files.sweep()
        if target.exists():
            place.move(target.name, f"{part}/{BEFORE}")
        place.move(part, target.name)
        place.remove(f"{target.name}/{BEFORE}")
    finally:
        _put_back(target)


def _put_back(target: Path) -> None:
    """Takes away what preparations of this suite left that did not end; one that was killed between its two renames
    had moved the suite of before aside, with prompts that are nowhere else: it is put back."""
    place = Folder(target.parent)
    for part in sorted(target.parent.glob(f".{glob.escape(target.name)}-*.part")):
        if not target.exists() and (part / BEFORE).exists():
            place.move(f"{part.name}/{BEFORE}", target.name)
        place.remove(part.name)
    place.remove(f"{target.name}/{BEFORE}")
    place.sweep()
