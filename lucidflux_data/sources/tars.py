"""The image members of a tar, read as far as it can be read.

Of a name that comes twice the last one counts, as for `tar -x`. A damaged header is stepped over, block by block, to
the next good one. Tars that stand one after the other are read as one. A json goes with the image that it stands
beside.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any

from lucidflux_data.images import IMAGE_EXTENSIONS

MAX_SIDE_BYTES = 1 << 20  # a json beside an image that is larger than this is not side data


@dataclass
class TarListing:
    """`images`: (name, offset, size, json beside it or None) in the order of the tar. `ignored`: members that are no
    image, links, and members that a later one of the same name replaces. `damaged`: whether a header or the end is."""

    images: list[tuple[str, int, int, str | None]] = field(default_factory=list)
    ignored: int = 0
    damaged: bool = False


@dataclass(frozen=True)
class _Side:
    text: str
    run: int  # number of the run of neighbours of one key


def list_members(file: IO[bytes]) -> TarListing:
    """The members of an open tar, from its headers."""
    found = TarListing()

    class Watched(tarfile.TarInfo):
        """tarfile steps over damaged headers without a word when it is told to go on."""

        @classmethod
        def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
            try:
                return super().frombuf(buf, encoding, errors)
            except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
                found.damaged = True
                raise

    places: dict[str, tuple[int, int, int]] = {}  # offset, size, run
    twice: Counter[str] = Counter()
    sides: dict[str, list[_Side]] = {}
    run, before = 0, None
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True, tarinfo=Watched) as tar:
            for member in tar:
                name = escape_name(member.name)
                key = sample_key(name)
                run, before = (run if key == before else run + 1), key
                if member.isdir():
                    continue
                if not member.isreg():
                    found.ignored += 1
                elif is_image_name(name):
                    twice[key] += name in places
                    found.ignored += places.pop(name, None) is not None
                    places[name] = (member.offset_data, member.size, run)
                elif name.endswith(".json") and member.size <= MAX_SIDE_BYTES:
                    text = _json_text(tar.extractfile(member))
                    sides.setdefault(key, []).extend([_Side(text, run)] if text else [])
                else:
                    found.ignored += 1
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        found.damaged = True
    for name, (offset, size, mine) in places.items():
        side = _side_of(sides.get(sample_key(name), []), mine, twice[sample_key(name)] > 0)
        found.images.append((name, offset, size, side))
    return found


def _side_of(sides: list[_Side], run: int, is_repeated: bool) -> str | None:
    """The json of the same run of neighbours; for a name that comes once, the last of its key wherever it stands."""
    beside = [side.text for side in sides if side.run == run]
    if beside:
        return beside[-1]
    return None if is_repeated or not sides else sides[-1].text


def is_image_name(name: str) -> bool:
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return dot > 0 and base[dot:].lower() in IMAGE_EXTENSIONS and not base.startswith("._")


def sample_key(member: str) -> str:
    """WebDataset's rule: the path up to the first dot of the base name."""
    folder, slash, base = member.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def escape_name(name: str) -> str:
    """Valid UTF-8; bytes of a name that are not are shown as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _json_text(file: IO[bytes] | None) -> str:
    """The text of a json member; empty for what is no JSON, however deep it is."""
    try:
        text = file.read().decode("utf-8") if file is not None else ""
        json.loads(text)
    except (ValueError, RecursionError, tarfile.TarError, OSError):
        return ""
    return text
