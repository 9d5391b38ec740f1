"""Files that appear whole or not at all, whatever kills the process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from mettle_cache.errors import NoRoomError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, make it durable, and put it in place of ``path``.

    Raises
    ------
    NoRoomError
        The disk is full; the old file stays, and nothing is left of the new one.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(
                f"{path}: the disk is full; the file that was there before is untouched",
                hint="free some space and run again with --resume",
            ) from error
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a UTF-8 file; see :func:`write_atomically`."""

    def write(partial: Path) -> None:
        partial.write_text(text, "utf-8")

    write_atomically(path, write)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
