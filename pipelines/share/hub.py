"""The hub's client, and its errors as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mettle_cache.errors import MettleError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from mettle_cache.pipelines.share.address import Address

AGAIN = "run the same command again: it goes on"
LOGIN = "hf auth login, or put a token into HF_TOKEN"


class HubError(MettleError):
    """The hub refuses, or cannot be reached."""


def open_hub(*, writes: bool) -> HfApi:
    """The client. Raises UsageError where it is to write and nobody is logged in, and HubError where it is offline."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so the hub is not asked", hint="unset it to push and pull")
    if writes and get_token() is None:
        raise UsageError("nobody is logged in to the hub", hint=LOGIN)
    disable_progress_bars()
    # the client takes the variable when it is imported, which may have been before it was set
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


@contextmanager
def hub_errors(address: Address) -> Iterator[None]:
    """Say what is wrong in our words; whatever was sent or fetched so far stays for the next attempt."""
    from huggingface_hub import errors

    # of the client's own HTTP library, which has had several names
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refusal(address, error) from error
    except (HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise _unreachable(address, error) from error
    except RuntimeError as error:  # what a thread that sends large files met
        cause = error.__cause__
        if isinstance(cause, errors.HfHubHTTPError):
            raise _refusal(address, cause) from error
        if isinstance(cause, HTTPError | OSError):
            raise _unreachable(address, cause) from error
        if cause is None and "client has been closed" in str(error):  # by a thread that failed beside this one
            raise _unreachable(address, error) from error
        raise


def _refusal(address: Address, error: HfHubHTTPError) -> HubError:
    from huggingface_hub import errors

    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            return HubError(f"{address}: access has to be granted by its owner", hint=LOGIN)
        case errors.RevisionNotFoundError():
            return HubError(f"{address}: there is no such revision", hint="leave it out for the newest")
        case errors.RepositoryNotFoundError():
            return HubError(f"{address}: there is no such repository, or you may not see it", hint=LOGIN)
    if status in (401, 403):
        return HubError(f"{address}: the hub refuses your token ({status})", hint=LOGIN)
    said = error.server_message or f"status {status}"
    return HubError(f"{address}: the hub fails ({said})", hint=AGAIN)


def _unreachable(address: Address, error: BaseException) -> HubError:
    return HubError(
        f"{address}: the hub cannot be reached ({type(error).__name__})", hint=f"check the network; {AGAIN}"
    )
