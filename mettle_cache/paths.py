"""Paths that users write, on the command line, in Python, in recipes and in the environment: one rule for all of them.

An address such as ``s3://bucket/store`` would else be a local folder called ``s3:``, and ``~`` a folder of that name:
a shell replaces ``~`` in some places of a command and not in others.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mettle_cache.errors import UsageError

# one slash, because pathlib makes one of two; a scheme has two letters or more, so that C:/ is none
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(text: str | os.PathLike[str]) -> Path:
    """The place on this machine that a user means; ``~`` and ``~NAME`` are home folders.

    Raises
    ------
    UsageError
        No text at all, an address of another machine or a service, the home of a user that there is not, or a name
        that is not UTF-8, which records in JSON cannot hold.
    """
    written = os.fspath(text)
    if not written or "\0" in written:
        raise UsageError(f"the path {written!a} is no path", hint="name a file or folder of this machine")
    if address := _ADDRESS.match(written):
        raise UsageError(
            f"{written} is an address, not a path: files are read and written on this machine's disks only",
            hint=_instead(written, address[1].lower()),
        )
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{written}: there is no such user, so no such home folder",
            hint=f"a folder of that name here is {Path.cwd() / written}",
        ) from error
    if not is_utf8(str(path)):
        raise UsageError(
            f"the path {os.fsencode(path)!r} is not UTF-8", hint="rename the folder, or make a link to it and name that"
        )
    return path


def resolve_fields(config: object, *names: str) -> list[str]:
    """Put :func:`local_path` into these fields of a frozen dataclass, None aside; what is wrong with them."""
    problems = []
    for name in names:
        if (written := getattr(config, name)) is None:
            continue
        try:
            object.__setattr__(config, name, local_path(written))
        except UsageError as error:
            problems.append(f"{name}: {error.message}")
    return problems


def command_line(command: str, *words: str | os.PathLike[str]) -> str:
    """``command`` and further words, such as paths with blanks, as a shell takes them apart again."""
    return " ".join([command, *(shlex.quote(os.fspath(word)) for word in words)])


def user_cache_folder() -> Path | None:
    """Where this package may keep what it can make again; None where the user has no folder for such things."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "mettle-cache") if os.path.isabs(cache) else None


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; Python reads names of other bytes as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _instead(address: str, scheme: str) -> str:
    if scheme == "file":
        return f"name the path alone: {unquote(urlsplit(address).path)}"
    return "copy or mount it here, and name that folder"
