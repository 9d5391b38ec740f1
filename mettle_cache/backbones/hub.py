"""timm's pretrained weights from their hub, or within seconds an error that says what to do instead."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mettle_cache.errors import WeightsError

REACH_TIMEOUT = 5.0
FILES = ("model.safetensors", "pytorch_model.bin")


def fetch_pretrained(name: str, repository: str | None, filename: str | None, option: str) -> Path:
    """A local copy of a model's weights file, downloaded where it is not in the hub's cache yet.

    ``option`` is the command-line option that takes this backbone, for the message.

    Raises
    ------
    WeightsError
        The model has no weights on the hub, or the hub cannot be reached.
    """
    if repository is None:
        raise WeightsError(f"there are no pretrained weights for '{name}'", hint=_instead(name, option))
    cached = find_cached(repository, filename)
    if cached is not None:
        return cached
    _check_reachable(name, repository, option)
    return _download(name, repository, filename, option)


def find_cached(repository: str, filename: str | None) -> Path | None:
    """The weights file in the hub's local cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    for candidate in (filename,) if filename else FILES:
        path = try_to_load_from_cache(repository, candidate)
        if isinstance(path, str):
            return Path(path)
    return None


def _check_reachable(name: str, repository: str, option: str) -> None:
    # the hub's own client retries an unreachable host for half a minute
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"weights of '{name}' ({repository}) are not in the hub's cache, and HF_HUB_OFFLINE forbids fetching them",
            hint=_instead(name, option),
        )
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=REACH_TIMEOUT).close()
    except HTTPError:
        return  # it answered; what is wrong with the file itself, the hub's client says better
    except OSError as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # the hub's client has its own certificates
        raise WeightsError(
            f"weights of '{name}' ({repository}) are not in the hub's cache, and {constants.ENDPOINT} "
            f"cannot be reached: {error}",
            hint=_instead(name, option),
        ) from error


def _download(name: str, repository: str, filename: str | None, option: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # the HTTP client's own base class: httpx2's today, that of requests in older releases
    client_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    trouble: BaseException | None = None
    for candidate in (filename,) if filename else FILES:
        try:
            return Path(hf_hub_download(repository, candidate, etag_timeout=REACH_TIMEOUT))
        except LocalEntryNotFoundError as error:
            trouble = error
            break
        except EntryNotFoundError as error:
            trouble = error
        except (client_error, OSError) as error:
            trouble = error
            break
    reason = str(trouble).strip().splitlines()[0] if trouble else "no weights file there"
    raise WeightsError(
        f"weights of '{name}' could not be fetched from {repository}: {reason}", hint=_instead(name, option)
    ) from trouble


def _instead(name: str, option: str) -> str:
    return (
        f"give a file: {option} {name}=FILE (.safetensors or .pth); "
        f"or, to try things out, random weights: {option} {name}=random --seed N"
    )
