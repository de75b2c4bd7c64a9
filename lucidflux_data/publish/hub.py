"""Files of a set to a dataset repository of the Hugging Face Hub, through `huggingface_hub`.

Large files are sent first, in parts, and the Hub is asked before each which of them it has: an upload that was broken
off goes on without sending those again. What speaks of the whole set goes with the last commit, and shards of ours that
the manifest lists no more go with it. Then the listing of the repository is compared with the manifest.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from lucidflux_data.errors import ConfigError, Interrupted, LucidFluxError, StorageError, VerificationError, needs_extra
from lucidflux_data.publish.croissant import MAIN
from lucidflux_data.publish.published import LAST, PublishedFile
from lucidflux_data.shards.form import is_shard_file
from lucidflux_data.shards.verify import PLACE
from lucidflux_data.storage.folder import Folder

AT_ONCE = 16  # files between two lines of progress
IN_A_COMMIT = 250  # files; the Hub's own client begins with as many
_PLACE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)/?")
_HTTP = ("httpx", "httpcore", "requests", "urllib3")  # modules of the errors of a network that is away


class Pushed(TypedDict):
    """`to`: the repository; `page`: its address; `revision`: its branch; `commit`: the last one; `files`, `bytes`: of
    the set; `sent`: files that the Hub did not have at their place; `removed`: shards of an earlier set."""

    to: str
    page: str
    revision: str
    commit: str
    files: int
    bytes: int
    sent: int
    removed: list[str]


@dataclass(frozen=True)
class Destination:
    """`repository`: OWNER/NAME; `revision`: a branch, made where it is not there; `private`: of a new repository, and
    asked of one that is there."""

    repository: str
    revision: str = MAIN
    private: bool = False

    @property
    def url(self) -> str:
        return f"hf://datasets/{self.repository}"


def parse_destination(place: str) -> str:
    """OWNER/NAME of `hf://datasets/OWNER/NAME`. ConfigError for anything else."""
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ConfigError(f"{place!r} is no dataset repository: write hf://datasets/OWNER/NAME")
    return match[1]


def check_ready() -> None:
    """Before the long work: ConfigError without `huggingface_hub`, without a token, or with the Hub switched off."""
    with needs_extra("hub"):
        from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise ConfigError("the Hub is switched off here (HF_HUB_OFFLINE): unset it to push")
    if get_token() is None:
        raise ConfigError("there is no token of the Hub here: `hf auth login` asks for one, or set HF_TOKEN")


def push(folder: Folder, files: Sequence[PublishedFile], to: Destination, say: Callable[[str], None]) -> Pushed:
    """Sends `files` in their order. ConfigError as of `check_ready`, and where --private meets a public repository.
    Interrupted where the Hub refuses or is away: the same call goes on. VerificationError where a file changed on the
    way, or the Hub lists other contents afterwards."""
    check_ready()
    import huggingface_hub as hub
    from huggingface_hub.utils import disable_progress_bars, logging

    with telling(to):
        disable_progress_bars()
        logging.set_verbosity_error()
        api = hub.HfApi(library_name="lucidflux")
        _open_repository(api, to)
        before = _listing(api, to)
        todo = [file for file in files if file.sha256 is None or before.get(file.name) != file.sha256]
        removed = _left_behind(before, files, to)
        additions = {file.name: hub.CommitOperationAdd(file.name, folder.path(file.name)) for file in todo}
        _send(api, to, todo, additions, say)
        deletions = [hub.CommitOperationDelete(name) for name in removed]
        commit = _commit(api, to, additions, deletions)
        _check_listing(_listing(api, to), files, to)
    return {
        "to": to.url,
        "page": f"{api.endpoint}/datasets/{to.repository}" + (f"/tree/{to.revision}" if to.revision != MAIN else ""),
        "revision": to.revision,
        "commit": commit,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "sent": sum(file.sha256 is not None for file in todo),
        "removed": removed,
    }


def _open_repository(api: Any, to: Destination) -> None:
    """Makes repository and branch where they are not there."""
    api.create_repo(to.repository, repo_type="dataset", private=True if to.private else None, exist_ok=True)
    if to.private and not api.repo_info(to.repository, repo_type="dataset").private:
        raise ConfigError(f"{to.url} is there and is public: make it private on the Hub first, or leave --private out")
    if to.revision != MAIN:
        api.create_branch(to.repository, repo_type="dataset", branch=to.revision, exist_ok=True)


def _listing(api: Any, to: Destination) -> dict[str, str]:
    """Of each file of the branch the sha256 where the Hub keeps it as a large file, else the git hash."""
    found = api.list_repo_tree(to.repository, repo_type="dataset", revision=to.revision, recursive=True)
    files = [each for each in found if hasattr(each, "size")]  # folders have none
    return {each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in files}


def _left_behind(there: dict[str, str], files: Sequence[PublishedFile], to: Destination) -> list[str]:
    """Shards and indices of ours in the repository that the set does not have. ConfigError where they are of another
    kind of set, as images and pairs are: nobody means to replace the one by the other."""
    names = {file.name for file in files}
    place = f"{PLACE}/"
    ours = [name for name in there if name.startswith(place) and is_shard_file(name.removeprefix(place))]
    kinds = {name.removeprefix(place).partition("-")[0] for name in names if name.startswith(place)}
    others = [name for name in ours if kinds and name.removeprefix(place).partition("-")[0] not in kinds]
    if others:
        raise ConfigError(f"{to.url} holds another kind of set ({others[0]}): push to a repository of its own")
    return sorted(name for name in ours if name not in names)


def _send(
    api: Any, to: Destination, todo: Sequence[PublishedFile], additions: dict[str, Any], say: Callable[[str], None]
) -> None:
    """The contents that the manifest lists; the Hub says which of them it has."""
    listed = [file for file in todo if file.sha256 is not None]
    total, done = sum(file.bytes for file in listed), 0
    for start in range(0, len(listed), AT_ONCE):
        part = listed[start : start + AT_ONCE]
        api.preupload_lfs_files(
            to.repository,
            additions=[additions[file.name] for file in part],
            repo_type="dataset",
            revision=to.revision,
            free_memory=False,
        )
        for file in part:
            if additions[file.name].upload_info.sha256.hex() != file.sha256:
                raise VerificationError(f"{file.name} changed while it was sent: nothing was committed; push again")
        done += sum(file.bytes for file in part)
        say(f"{to.url}: {start + len(part):,} of {len(listed):,} files, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")


def _commit(api: Any, to: Destination, additions: dict[str, Any], deletions: Sequence[Any]) -> str:
    """Commits of at most IN_A_COMMIT files, what speaks of the whole set in the last. Gives the id of that."""
    last = [additions[name] for name in LAST if name in additions]
    rest = [operation for name, operation in additions.items() if name not in LAST]
    room = IN_A_COMMIT - len(last)
    parts = [rest[start : start + IN_A_COMMIT] for start in range(0, max(0, len(rest) - room), IN_A_COMMIT)]
    ending = rest[sum(map(len, parts)) :]
    message = "Publish the set with lucidflux"
    for number, part in enumerate(parts, 1):
        _one_commit(api, to, part, f"{message} (part {number} of {len(parts) + 1})")
    of = f" (part {len(parts) + 1} of {len(parts) + 1})" if parts else ""
    return _one_commit(api, to, [*deletions, *ending, *last], message + of)


def _one_commit(api: Any, to: Destination, operations: Sequence[Any], message: str) -> str:
    done = api.create_commit(
        to.repository, list(operations), commit_message=message, repo_type="dataset", revision=to.revision
    )
    return str(done.oid)


def _check_listing(there: dict[str, str], files: Sequence[PublishedFile], to: Destination) -> None:
    """VerificationError where the repository lacks a file, or has a large one with another sha256. The Hub gives small
    ones a git hash, which says nothing of the manifest's."""
    wrong = [file.name for file in files if file.name not in there]
    large = [file for file in files if file.sha256 is not None and len(there.get(file.name, "")) == len(file.sha256)]
    wrong += [file.name for file in large if there[file.name] != file.sha256]
    if wrong:
        more = f" and {len(wrong) - 5:,} more" if wrong[5:] else ""
        raise VerificationError(f"{to.url} does not have, or has other bytes of: {', '.join(wrong[:5])}{more}")


@contextlib.contextmanager
def telling(to: Destination) -> Iterator[None]:
    """Around calls of the Hub: what it refuses, or that it is away, as a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except LucidFluxError:
        raise
    except HFValidationError as error:
        raise ConfigError(f"{to.url}: {_first_line(error)}") from None
    except Exception as error:
        causes = list(_causes(error))
        for each in causes:
            if isinstance(each, HfHubHTTPError):
                _raise_answer(each, to)
        if any(type(each).__module__.startswith(_HTTP) or isinstance(each, OSError) for each in causes):
            answer = _first_line(causes[-1])
            without = ", or set HF_HUB_DISABLE_XET=1 to send without xet" if "xet" in answer else ""
            raise StorageError(f"the Hub cannot be reached ({answer}): repeat the command to resume{without}") from None
        raise


def _raise_answer(error: Any, to: Destination) -> None:
    """What an answer of the Hub that is an error means."""
    status = error.response.status_code
    answer = error.server_message or _first_line(error)
    if status == 401:
        raise Interrupted(
            f"{to.url}: the Hub does not accept this token (401): `hf auth login`, then repeat the command to resume"
        ) from None
    if status == 403:
        raise Interrupted(
            f"{to.url}: this token may not write there (403: {answer}): take one with write access, or another OWNER, "
            "then repeat the command to resume"
        ) from None
    if status in (400, 404, 409, 422):
        raise ConfigError(f"{to.url}: the Hub refuses it ({status}: {answer})") from None
    raise StorageError(f"{to.url}: the Hub failed ({status}: {answer}): repeat the command to resume") from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
