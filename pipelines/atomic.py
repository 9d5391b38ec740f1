"""Large files that appear whole or not at all, without a copy of them in memory (small ones: ``store.durable``)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mettle_cache.store.writing.durable import PARTIAL, disk_errors, sync_folder


def write_atomically(path: Path, write: Callable[[Path], None], *, needed: int = 0) -> None:
    """Let ``write`` fill a file beside ``path``, make it durable, and put it in place of ``path``.

    ``needed`` is its size in bytes, for the message where the disk is full.

    Raises
    ------
    NoRoomError
        The disk is full; the old file stays, and nothing is left of the new one.
    StoreError
        The disk refuses for another reason.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    with disk_errors(path, needed):
        try:
            write(partial)
            _sync(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
