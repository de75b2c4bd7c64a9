"""What was submitted: methods as folders of images, and what is wrong or remarkable about the files.

    OUTPUTS is a method (images, or seed-1/ seed-2/ ... of images), or a folder of such methods

Set, size, mode and codec are read from the headers; sizes are upright, after the rotation that EXIF asks for. Equality
with bicubic, and between methods, is of pixels (copies.py).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.methods import losses
from benchmarks.methods.copies import OutputFile, find_copies
from benchmarks.methods.made import tell_foreign
from benchmarks.methods.method_file import MethodFile, read_method, size_remark
from benchmarks.suites.ids import as_text, suggest_pattern
from benchmarks.suites.suite import AD_HOC, Suite, images_by_id
from lucidflux_data.errors import InputError
from lucidflux_data.images import IMAGE_EXTENSIONS, ImageError
from lucidflux_data.isolation import probe_apart
from lucidflux_data.sources.reading import read_file

SEED_FOLDER = re.compile(r"seed-(\w+)")


@dataclass
class Method:
    """`files`: seed -> id -> file; one seed, named 0, where there are no seed folders."""

    name: str
    folder: Path
    paths: dict[str, dict[str, Path]]
    about: MethodFile = field(default_factory=MethodFile)
    files: dict[str, dict[str, OutputFile]] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)


def find_methods(outputs: Iterable[str], pattern: re.Pattern[str] | None = None) -> list[Method]:
    """The methods of all --outputs, `DIR` or `NAME=DIR`. InputError for a folder without images and a name twice.

    `pattern`: which part of a file's name is its id (`suites.ids.id_of`)."""
    methods: list[Method] = []
    for item in outputs:
        name, equals, place = item.partition("=")
        if not equals or os.path.exists(item):
            name, place = "", item
        folder = Path(place).absolute()
        if not folder.is_dir():
            raise InputError(f"--outputs {place} is not a folder")
        methods += _methods_in(folder, name, pattern)
    twice = [name for name, count in Counter(method.name for method in methods).items() if count > 1]
    if twice:
        raise InputError(f"two methods are called {twice[0]}: give one as NAME=DIR")
    return methods


def _methods_in(folder: Path, name: str, pattern: re.Pattern[str] | None) -> list[Method]:
    if _has_images(folder) or _seed_folders(folder):
        return [_method(folder, name or folder.name, pattern)]
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    inner = [path for path in folders if _has_images(path) or _seed_folders(path)]
    deeper = next((below for path in folders if path not in inner for below in _with_images(path)), None)
    if inner and deeper is not None:
        raise InputError(
            f"{deeper} holds images, and {deeper.parent} beside the methods of {folder} holds none: give "
            f"NAME={deeper}, or call folders of seeds seed-1, seed-2"
        )
    if not inner:
        raise InputError(f"{folder} holds neither images nor folders of images")
    if name:
        raise InputError(f"{name}={folder} holds several methods ({inner[0].name}, ...): a name is for one")
    return [_method(path, path.name, pattern) for path in inner]


def _with_images(folder: Path) -> list[Path]:
    """The folders directly in one that hold images."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _has_images(path)]


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file() for path in folder.iterdir())


def _seed_folders(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.iterdir()):
        match = SEED_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            found[match[1]] = path
    return found


def _method(folder: Path, name: str, pattern: re.Pattern[str] | None) -> Method:
    seeds = _seed_folders(folder)
    if seeds and _has_images(folder):
        raise InputError(f"{folder} holds images beside its seed folders: move them into one")
    odd = [path.name for path in _with_images(folder) if path.name.lower().startswith("seed")]
    odd = [name for name in odd if not SEED_FOLDER.fullmatch(name)]
    if odd:
        raise InputError(f"{folder / odd[0]} holds images and is no seed: folders of seeds are called seed-1, seed-2")
    paths = {seed: images_by_id(place, pattern) for seed, place in (seeds or {"0": folder}).items()}
    about = read_method(folder) or {}
    return Method(as_text(about.get("method", name) if name == folder.name else name), folder, paths, about)


def check_ids(methods: list[Method], suite: Suite) -> tuple[str, ...]:
    """The ids of the leaderboard. InputError (exit 3) for an id that the suite does not have."""
    if suite.ids is None:
        ids = sorted({id_ for method in methods for seed in method.paths.values() for id_ in seed})
        if len(ids) > suite.count:
            raise InputError(
                f"the outputs have {len(ids)} different ids, {suite.name} has {suite.count} images: "
                f"prepare it (`lucidflux bench prepare {suite.name}`), so that its ids are known"
            )
        return tuple(ids)
    known = set(suite.ids)
    for method in methods:
        for paths in method.paths.values():
            unknown = sorted(set(paths) - known)
            if unknown:
                hint = "" if suite.ids_verified else "; its ids were not verified: prepare it from its archive"
                raise InputError(
                    f"{method.name} has {len(unknown)} images that {suite.name} does not have: "
                    f"{', '.join(unknown[:3])}{hint}{suggest_pattern(unknown, known)}"
                )
    if suite.name == AD_HOC and not suite.gt and not suite.lq:
        _check_names(methods)
    return suite.ids


def _check_names(methods: list[Method]) -> None:
    """Where nothing but the outputs names the ids: InputError for two methods that share none of them, while the names
    of one are those of the other with something around them."""
    each = {method.name: {id_ for seed in method.paths.values() for id_ in seed} for method in methods}
    for first, known in each.items():
        for second, ids in each.items():
            hint = suggest_pattern(ids, known) if not known & ids else ""
            if hint:
                raise InputError(f"{second} and {first} share no id ({min(ids)}, {min(known)}){hint}")


def inspect(methods: list[Method], suite: Suite, ids: tuple[str, ...]) -> None:
    """Reads every file once (hash, header, checks); fills `files` and `flags` of each method.

    InputError where no image of a method has the size that the suite asks for.
    """
    expected = expected_sizes(suite, ids)
    with ThreadPoolExecutor(8) as pool:
        for method in methods:
            for seed, paths in method.paths.items():
                wanted = [(id_, paths[id_]) for id_ in ids if id_ in paths]
                files = pool.map(lambda item: _read(item[1], expected.get(item[0])), wanted)
                method.files[seed] = {item[0]: file for item, file in zip(wanted, files, strict=True)}
    for method in methods:
        _check_sizes(method, suite)
        method.flags = _flags(method, len(ids))
        hashes = {seed: {id_: file.sha256 for id_, file in files.items()} for seed, files in method.files.items()}
        method.flags += tell_foreign(method.about, hashes, suite.lq)
    for name, flags in find_copies({method.name: method.files for method in methods}, suite.lq, ids).items():
        next(method for method in methods if method.name == name).flags += flags


def expected_sizes(suite: Suite, ids: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """id -> (width, height) that an output must have; ids about which nothing is known are left out."""
    if suite.output_size is not None:
        return dict.fromkeys(ids, suite.output_size)
    sizes = {}
    for id_ in ids:
        if id_ in suite.gt:
            try:
                header = probe_apart(read_file(suite.gt[id_]))
            except ImageError as error:
                raise InputError(f"{suite.gt[id_]} is {error.reason}: {error.detail}") from None
            sizes[id_] = (header.width, header.height)
        elif suite.scale and id_ in suite.pins:
            pin = suite.pins[id_]
            sizes[id_] = (pin.width * suite.scale, pin.height * suite.scale)
    return sizes


def _read(path: Path, expected: tuple[int, int] | None) -> OutputFile:
    sha256 = ""
    try:
        data = read_file(path)
        sha256 = hashlib.sha256(data).hexdigest()
        header = probe_apart(data)
    except ImageError as error:
        return OutputFile(path, sha256, 0, 0, "", (), error.reason)
    remarks = []
    loss = losses.remark_of(data, header.format)
    if loss is not None:
        remarks.append(loss)
    if header.mode != "RGB":
        remarks.append(f"mode {header.mode}")
    if header.orientation != 1:
        remarks.append("rotated by EXIF")
    if header.animated:
        remarks.append("more than one frame, of which the first is scored")
    wrong = expected is not None and (header.width, header.height) != expected
    reason = "wrong_size" if wrong else None
    return OutputFile(path, sha256, header.width, header.height, header.format, tuple(remarks), reason)


def _check_sizes(method: Method, suite: Suite) -> None:
    files = [file for seed in method.files.values() for file in seed.values()]
    wrong = [file for file in files if file.reason == "wrong_size"]
    if wrong and len(wrong) == len(files):
        size = f"{suite.scale} times the input" if suite.scale else "the size of the reference"
        if suite.output_size:
            size = f"{suite.output_size[0]}x{suite.output_size[1]}"
        raise InputError(
            f"{method.name}: all {len(wrong)} images have the wrong size "
            f"({wrong[0].width}x{wrong[0].height}; {suite.label()} asks for {size}){_cause_of_sizes(method)}"
        )


def _cause_of_sizes(method: Method) -> str:
    """What `bench infer` said of the first image of a wrong size, as the end of a sentence; empty where it said
    nothing."""
    for seed, files in method.files.items():
        for id_ in (id_ for id_, file in files.items() if file.reason == "wrong_size"):
            remark = size_remark(method.about, seed, id_)
            if remark is not None:
                return f"; {as_text(id_)}: {as_text(remark)}"
    return ""


def _flags(method: Method, total: int) -> list[str]:
    """Sentences about a whole method, in order of weight."""
    flags = []
    files = [file for seed in method.files.values() for file in seed.values()]
    contaminated = method.about.get("contaminated", [])
    if contaminated:
        flags.append(f"contaminated: the checkpoint was validated on {', '.join(contaminated)}")
    for seed, found in method.files.items():
        if len(found) < total:
            where = f" in seed {seed}" if len(method.files) > 1 else ""
            flags.append(f"incomplete: {len(found)}/{total} images{where}")
    reasons = Counter(file.reason for file in files if file.reason)
    flags += [
        f"{count} images cannot be scored: {reason}{_cause_of_sizes(method) if reason == 'wrong_size' else ''}"
        for reason, count in sorted(reasons.items())
    ]
    remarks = Counter(remark for file in files for remark in file.remarks)
    flags += [f"{name}: {n} images" for name, n in remarks.items()]
    if len(method.files) == 1:
        flags.append("one seed")
    if "licence_class" in method.about:
        flags.append(f"licence class: {as_text(method.about['licence_class'])}")
    return flags
