"""The error that names a media file, and the checks that come before any decoder sees it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mettle_cache.datasets.textfile import escaped
from mettle_cache.errors import MediaError

_HEAD_BYTES = 1024


class MediaFileError(MediaError):
    """``what`` is wrong with the media at ``path``."""

    def __init__(self, path: Path, what: str, *, hint: str | None = None) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{escaped(path)}: {what}", hint=hint)


def require_file(path: Path) -> os.stat_result:
    """Stat of a regular, non-empty file.

    Links are followed: users keep large sets on other disks and link subsets of them, ids cannot leave the root by
    themselves, and nothing is written there. Pipes and devices are refused, since opening one can block for ever.

    Raises
    ------
    MediaFileError
        Nothing is there, it is not a regular file, or it is empty.
    """
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise MediaFileError(path, "is a folder where a file should be")
    if not stat.S_ISREG(status.st_mode):
        raise MediaFileError(path, "is not a regular file")
    if status.st_size == 0:
        raise MediaFileError(path, "is empty (0 bytes)")
    return status


def require_folder(path: Path) -> None:
    """Like :func:`require_file` for a folder; whether it is empty is for the caller to see."""
    if not stat.S_ISDIR(_stat(path).st_mode):
        raise MediaFileError(path, "is a file where a folder should be")


def _stat(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        what = "is a link to nothing" if path.is_symlink() else "is missing"
        raise MediaFileError(path, what) from None
    except OSError as error:
        raise MediaFileError(path, f"cannot be read: {error.strerror}") from error
    if not os.access(path, os.R_OK):
        raise MediaFileError(path, "cannot be read: permission denied")
    return status


def read_head(path: Path) -> bytes:
    """The first bytes of a file, those after its ID3 tag if it has one. Raises MediaFileError."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            if head[:3] == b"ID3" and len(head) > 10:
                # seven bits a byte
                file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(head[9:5:-1])))
                head = file.read(_HEAD_BYTES) or head
            return head
    except OSError as error:
        raise MediaFileError(path, f"cannot be read: {error.strerror}") from error
