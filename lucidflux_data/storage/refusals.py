"""A store that refuses an answer: one object that may not be read, or credentials that no longer hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lucidflux_data.errors import CredentialsError, InputError

NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
# Codes by which a store refuses who asks, not what is asked for (S3's list of error responses; 401 is "unauthorized").
WHO_ASKS = {
    "401",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RefreshError",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnrecognizedClientException",
}
# Called where a store refuses who asks: clients that are open would not look for other credentials.
WHEN_REFUSED: list[Callable[[], object]] = []
WHAT_IS_ASKED = {"403", "AccessDenied", "AllAccessDisabled", "Forbidden", "InvalidObjectState"}


def raise_refusal(error: BaseException, what: str) -> None:
    """Raises what a refusal of a remote store means; nothing happens for any other error. `what`: the url.

    InputError: there are no credentials. CredentialsError: the store no longer accepts them. PermissionError: this
    object may not be read or written; a web server asks for a password for some of its files, so that its 401 is one.
    """
    names = {type(each).__name__ for each in _causes(error)}
    codes = {code for each in _causes(error) for code in _codes(each)}
    if names & NO_CREDENTIALS or codes & WHO_ASKS:
        for forget in WHEN_REFUSED:
            forget()
    if names & NO_CREDENTIALS:
        raise InputError(f"{what}: no credentials were found (storage.anonymous=true asks without)")
    if codes & WHO_ASKS and not what.startswith(("http://", "https://")):
        raise CredentialsError(what)
    if codes & (WHO_ASKS | WHAT_IS_ASKED) or any(isinstance(each, PermissionError) for each in _causes(error)):
        raise PermissionError(f"{what} may not be read or written") from None


def is_past_the_end(error: BaseException) -> bool:
    """Whether a store refuses a part of an object since the object ends before (HTTP 416)."""
    codes = {code for each in _causes(error) for code in _codes(each)}
    return bool(codes & {"416", "InvalidRange"})


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _codes(error: BaseException) -> Iterator[str]:
    """What botocore, aiohttp, gcsfs and google.auth call the kind of an answer."""
    yield type(error).__name__
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code"))
    status = getattr(error, "status", None)  # asked first: aiohttp warns of those who ask for `code`
    yield str(getattr(error, "code", None) if status is None else status)
    if str(error).startswith("Forbidden"):  # gcsfs makes an OSError of a 403
        yield "Forbidden"


# Of each store, an object that this process could read: whether credentials still hold is asked of it.
_readable: dict[str, str] = {}


def store_of(url: str) -> str:
    """The bucket or host of a url."""
    return "/".join(url.split("/")[:3])


def note_read(url: str) -> None:
    """An object of this store could be read."""
    _readable.setdefault(store_of(url), url)


def find_readable(url: str) -> str | None:
    """An object of the same store that this process has read, if there is one."""
    return _readable.get(store_of(url))
