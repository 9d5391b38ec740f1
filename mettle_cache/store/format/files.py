"""Reading the small files of a store: regular files only, never through a link, never larger than they may be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mettle_cache.errors import StoreCorruptError

LARGEST_JSON = 64 << 20
LARGEST_TABLE = 256 << 20


def repair_hint(store: Path) -> str:
    """What a user does about damage."""
    return (
        f"run `mettle verify {store} --deep --repair`, then the same `mettle extract` command again; "
        "it extracts only the clips that were damaged"
    )


def open_regular(path: Path | str, *, folder: int | None = None) -> int:
    """A read-only descriptor of a regular file; OSError for a link or anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def read_small(path: Path, *, limit: int, store: Path) -> bytes:
    """A whole file of at most ``limit`` bytes.

    Raises
    ------
    StoreCorruptError
        It is missing, a link, unreadable or too large.
    """
    try:
        descriptor = open_regular(path)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size <= limit:
                return file.read(limit)
    except OSError as error:
        raise StoreCorruptError(f"{path}: {error.strerror or error}", hint=repair_hint(store)) from error
    raise StoreCorruptError(f"{path}: {size:,} bytes, more than the {limit:,} such a file may have")
