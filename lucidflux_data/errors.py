"""The errors that a user sees: one sentence and an exit code. The command line prints the sentence, never a traceback.

LucidFluxError
  ConfigError        2  wrong option, config or run folder (WrongCall: wrong argument of a call in Python)
  InputError         3  a source that cannot be used (WrongImage: what was given in memory is no image)
  TooManyFailed      4  finished, but more failed than --max-failed
  Interrupted        5  stopped half-way; the same command resumes (StorageError: the store kept failing; FolderBusy:
                        another command writes there; CredentialsError: the store no longer accepts who asks)
  VerificationError  6  what is on disk is not what the manifest says
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class LucidFluxError(Exception):
    """Base of the errors that reach the user; `str(error)` is one sentence that says what to do."""

    exit_code = 1


class ConfigError(LucidFluxError):
    exit_code = 2


class InputError(LucidFluxError):
    exit_code = 3


class WrongCall(ConfigError, ValueError):
    """A wrong argument of a call in Python, which is a ValueError as well."""


class WrongImage(InputError, ValueError):
    """What was given as an image in memory is none that can be used; a ValueError as well."""


class TooManyFailed(LucidFluxError):
    exit_code = 4


class Interrupted(LucidFluxError):
    exit_code = 5


class StorageError(Interrupted):
    """A store failed again and again in a way that can pass; an executor tries the unit again before it gives up."""


class FolderBusy(Interrupted):
    """Another command writes into the folder, or has taken it over."""


class CredentialsError(Interrupted):
    """A store that could be spoken to no longer accepts who asks: nothing is tried again, and no image is at fault."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{url}: the store no longer accepts these credentials (expired, or withdrawn): "
            "refresh them, then repeat the command to resume"
        )
        self.url = url

    def __reduce__(self) -> tuple[type[CredentialsError], tuple[str]]:
        return CredentialsError, (self.url,)


class VerificationError(LucidFluxError):
    exit_code = 6


class ImageError(Exception):
    """One image cannot be used. `reason` is one of records.FAILURES, `detail` a sentence of ours."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def suggest(name: str, known: Iterable[str], some: int = 12) -> str:
    """The end of a sentence about a name that is not known: "did you mean niqe?", else the first `some` known ones."""
    names = list(dict.fromkeys(known))
    small = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), small, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(small[each] for each in near)}?"
    more = f" and {len(names) - some} more" if len(names) > some else ""
    return f"there are {', '.join(names[:some])}{more}"


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the imports of an optional part: a package that is not there is a ConfigError that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'lucidflux[{extra}]'") from None
