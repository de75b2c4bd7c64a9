"""Names that strangers chose, as paths that stay below a folder of ours.

`safe_name` makes such a path of any name; `check_inside` is the second line, in `Folder.path`: it refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from lucidflux_data.errors import VerificationError
from lucidflux_data.escapes import code_of, show

BYTES_OF_A_PART = 180  # a file system takes 255; an extension, a variant or a `.part` still has room
BYTES_OF_A_NAME = 700  # an object store takes 1,024 with its prefix
OURS = (".tmp",)  # in every folder of ours: what is being written, and is swept


def safe_name(name: str, taken: Collection[str] = ()) -> str:
    """A relative path for a name out of a tar, a table, a web page or a user's folder: the name itself where it is one.

    Parts that are empty or `.` go. `..`, a first part that is ours (`taken`, and OURS, in any case) and characters
    that are not seen are written `\\xNN` or `\\uNNNN`. A part, or a path, that is too long ends in its hash.
    """
    parts = [_safe_part(part) for part in name.split("/") if part not in ("", ".")] or ["_"]
    reserved = {*OURS, *(item.lower() for item in taken)}
    if parts[0].lower() in reserved:
        parts[0] = code_of(parts[0][0]) + parts[0][1:]
    whole = "/".join(parts)
    if len(whole.encode()) > BYTES_OF_A_NAME:
        return _shortened(whole.replace("/", "_"))
    return whole


def safe_file(name: str) -> str:
    """As `safe_name`, in one part: a file directly in a folder of ours. `/` is written `_`."""
    return safe_name(name.replace("/", "_"))


def check_inside(name: str, root: str) -> None:
    """VerificationError for a name that leads out of the folder `root`, or that no file can have."""
    if ".." in name or name.startswith("/") or "\0" in name:
        parts = name.split("/")
        if ".." in parts or parts[0] == "" or "\0" in name:
            raise VerificationError(f"{name!r} leads out of {root}: nothing was read or written there")


def check_file_name(name: str, root: object) -> None:
    """VerificationError for what is no name of a file directly in a folder."""
    check_inside(name, str(root))
    if safe_file(name) != name:
        raise VerificationError(f"{name!r} is no name of a file in {root}")


def _safe_part(part: str) -> str:
    if part == "..":
        return code_of(".") * 2
    part = show(part)
    return _shortened(part) if len(part.encode()) > BYTES_OF_A_PART else part


def _shortened(part: str) -> str:
    whole = part.encode()
    return f"{whole[: BYTES_OF_A_PART - 21].decode(errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:20]}"
