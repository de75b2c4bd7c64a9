"""`lucidflux weights download`: the published files from the Hugging Face hub, resumed and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucidflux_data.errors import ConfigError, InputError, VerificationError, suggest
from lucidflux_model.weights.files import file_sha256


@dataclass(frozen=True)
class Published:
    """A file on the hub. `sha256`: first and last digits, as far as they are known without asking the hub."""

    repository: str
    name: str
    folder: str = ""  # below the download folder
    size: int | None = None
    sha256: tuple[str, str] | None = None


# Where the published inference takes them from. FLUX.1-dev is behind a licence that has to be accepted.
FILES: dict[str, Published] = {
    "lucidflux.pth": Published("W2GenAI/LucidFlux", "lucidflux.pth"),
    "prompt_embeddings.pt": Published("W2GenAI/LucidFlux", "prompt_embeddings.pt"),
    "flux1-dev.safetensors": Published("black-forest-labs/FLUX.1-dev", "flux1-dev.safetensors"),
    "ae.safetensors": Published("black-forest-labs/FLUX.1-dev", "ae.safetensors"),
    "general_swinir_v1.ckpt": Published(
        "lxq007/DiffBIR", "general_swinir_v1.ckpt", size=90_208_287, sha256=("577b8f84", "dcaf")
    ),
    "siglip2/config.json": Published("google/siglip2-so400m-patch16-512", "config.json", "siglip2"),
    "siglip2/model.safetensors": Published("google/siglip2-so400m-patch16-512", "model.safetensors", "siglip2"),
}


def download(out: Path, only: Iterable[str] = (), say: Callable[[str], None] = print) -> dict[str, str]:
    """Fetches the files into `out`; gives their sha256. A file that is there and whole is not fetched again.

    Raises ConfigError for a name that is not in FILES, InputError where the hub or a licence refuses,
    VerificationError where the bytes are not the published ones (they are removed).
    """
    wanted = list(only) or list(FILES)
    unknown = [name for name in wanted if name not in FILES]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not a published file: {suggest(unknown[0], FILES)}")
    hashes = {}
    for name in wanted:
        file = FILES[name]
        say(f"{name}: from {file.repository}")
        path, etag = _fetch(file, out)
        hashes[name] = file_sha256(path)
        _check(path, file, etag, hashes[name])
    return hashes


def _fetch(file: Published, out: Path) -> tuple[Path, str | None]:
    """The local path, and the hub's own ETag: the sha256 of large files."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    place = f"{file.repository}/{file.name}"
    try:
        etag = get_hf_file_metadata(hf_hub_url(file.repository, file.name)).etag
        return Path(hf_hub_download(file.repository, file.name, local_dir=out / file.folder)), etag
    except GatedRepoError:
        raise InputError(
            f"{file.repository} is behind a licence: accept it at https://huggingface.co/{file.repository}, "
            "then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"the hub shows no {file.repository} to you: log in with `hf auth login`") from None
    except LocalEntryNotFoundError as error:
        raise InputError(f"{place} could not be fetched: {_reason(error)}; repeat the command to resume") from None
    except EntryNotFoundError:
        raise InputError(f"the hub has no file {place} any more") from None
    except OfflineModeIsEnabled:
        raise InputError("the hub is switched off here (HF_HUB_OFFLINE): unset it to download") from None
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"{place} could not be fetched: {_reason(error)}; repeat the command to resume") from None
    except Exception as error:  # the HTTP library's own errors, which one depends on the version
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise InputError(f"the hub cannot be reached: {_reason(error)}; repeat the command to resume") from None


def _reason(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _check(path: Path, file: Published, etag: str | None, sha256: str) -> None:
    wrong = []
    if etag and len(etag) == 64 and etag != sha256:  # other files carry a git hash, which says nothing of the bytes
        wrong.append(f"sha256 {sha256[:12]}... instead of the hub's {etag[:12]}...")
    if file.sha256 is not None and not (sha256.startswith(file.sha256[0]) and sha256.endswith(file.sha256[1])):
        wrong.append(f"sha256 {sha256[:12]}... instead of {'...'.join(file.sha256)}")
    if file.size is not None and path.stat().st_size != file.size:
        wrong.append(f"{path.stat().st_size:,} bytes instead of {file.size:,}")
    if wrong:
        path.unlink()
        raise VerificationError(f"{path} is not the published file: {'; '.join(wrong)}; it was removed")
