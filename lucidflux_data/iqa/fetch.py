"""The weight files of metrics, fetched into the places where they are looked for: resumed, and compared by sha256.

Nothing here runs by itself: `lucidflux weights download` calls it.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from lucidflux_data.errors import InputError, VerificationError, needs_extra
from lucidflux_data.iqa.pins import CLIP_RN50, CLIP_VIT_B_32, REVISIONS, SHA256, file_sha256, trusted_digests, unpinned
from lucidflux_data.iqa.weight_files import INDEX, REPOSITORY_FILES, WEIGHTS, hf_folder, location, read_files, snapshot
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold

REPOSITORY_URL = "https://huggingface.co/"
PYIQA_URL = f"{REPOSITORY_URL}chaofengc/IQA-PyTorch-Weights/resolve/main/"
TORCHVISION_URL = "https://download.pytorch.org/models/"
OPENAI_URL = "https://openaipublic.azureedge.net/clip/models/"
CLIP_URL, CLIP_VIT_URL = f"{OPENAI_URL}{CLIP_RN50}/", f"{OPENAI_URL}{CLIP_VIT_B_32}/"
URL_OF = {"pyiqa": PYIQA_URL, "checkpoints": TORCHVISION_URL, "clip": CLIP_URL}
CHUNK = 1 << 20  # bytes
TIMEOUT_S = 60.0
SAY_EVERY_S = 5.0

Say = Callable[[str], None]


def source(weight: str) -> str:
    """Where an entry of WEIGHTS can be had, on a machine with a network."""
    if weight.startswith("hf:"):
        return REPOSITORY_URL + weight[3:]
    if weight.startswith("own:"):
        return CLIP_URL + weight[4:]
    place, name = weight.split("/")
    return (CLIP_VIT_URL if name == "ViT-B-32.pt" else URL_OF[place]) + name


def fetch_metric(metric: str, say: Say, wait_s: float = 0.0) -> dict[str, str]:
    """Fetches what a metric of WEIGHTS lacks; gives the sha256 of its files by their paths.

    InputError where a file cannot be had; VerificationError where one that came is not the pinned one, which goes.
    The folder of each file is held meanwhile (storage/lease.py), for which it waits `wait_s` seconds.
    """
    found: dict[str, str] = {}
    for weight in WEIGHTS[metric]:
        if weight.startswith("hf:"):
            with hold(Folder(location(weight)), wait_s, new=True):
                _fetch_repository(weight, say)
        else:
            fetch_file(source(weight), location(weight), SHA256.get(weight, frozenset()), say, wait_s)
        for problem in unpinned(weight):
            say(problem)
        found |= {str(path): file_sha256(path) for path in read_files(weight)}
    return found


def fetch_file(url: str, path: Path, digests: frozenset[str], say: Say, wait_s: float = 0.0) -> None:
    """Fetches `url` to `path`, unless a file of one of these sha256 (or a trusted one) is there.

    What has come so far stands in `path`.part, with which the next call goes on. `digests`: empty where none is known;
    then what comes is taken. InputError for a server that refuses or breaks off; VerificationError for other bytes;
    FolderBusy where another command writes beside it for longer than `wait_s` seconds.
    """
    if _is_there(path, digests, say):
        return
    with hold(Folder(path.parent), wait_s, new=True):
        if not _is_there(path, digests, say):  # or another command fetched it meanwhile
            _fetch_new(url, path, digests, say)


def _is_there(path: Path, digests: frozenset[str], say: Say) -> bool:
    if not path.is_file() or (digests and file_sha256(path) not in digests | trusted_digests()):
        return False
    say(f"{path}: there already")
    return True


def _fetch_new(url: str, path: Path, digests: frozenset[str], say: Say) -> None:
    part = path.with_name(f"{path.name}.part")
    say(f"{url} to {path}")
    try:
        for done, total in _receive(url, part):
            say(f"{path.name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
    except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(
            f"{url} could not be fetched: {reason or type(error).__name__}; repeat the command to resume"
        ) from None
    digest = file_sha256(part)
    if digests and digest not in digests | trusted_digests():
        part.unlink()
        raise VerificationError(f"{url} gave other bytes than the published ones (sha256 {digest}): they were removed")
    os.replace(part, path)


def _receive(url: str, part: Path) -> Iterator[tuple[int, int]]:
    """Appends what `part` lacks; yields (bytes so far, all bytes) now and then. OSError where it breaks off."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "lucidflux", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if start and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # it was all there: its sha256 tells
        raise
    with answer, part.open("ab" if answer.status == http.client.PARTIAL_CONTENT else "wb") as file:
        done = file.tell()
        length = answer.headers.get("Content-Length")
        total, said_at = done + int(length) if length else None, time.monotonic()
        while chunk := answer.read(CHUNK):
            done += file.write(chunk)
            if total and time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                yield done, total
    if total is not None and done < total:
        raise OSError(f"the connection broke off at {done:,} of {total:,} bytes")


def _fetch_repository(weight: str, say: Say) -> None:
    """The files of a repository that are read, at the pinned revision where there is one, which is called `main`."""
    with needs_extra("iqa"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, revision = weight.removeprefix("hf:"), REVISIONS.get(weight)
    say(f"{REPOSITORY_URL}{repository} to {location(weight)}")
    names = [name for row in REPOSITORY_FILES[weight] for name in row]
    wanted = [*names, INDEX, "*-of-*.bin", "*-of-*.safetensors"]
    try:
        snapshot_download(repository, revision=revision, cache_dir=hf_folder(), allow_patterns=wanted)
    except OfflineModeIsEnabled:
        raise InputError("the hub is switched off here (HF_HUB_OFFLINE): unset it to download") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(f"{repository} could not be fetched: {reason}; repeat the command to resume") from None
    if revision is not None and snapshot(location(weight)) is None:
        Folder(location(weight)).publish("refs/main", revision.encode())
