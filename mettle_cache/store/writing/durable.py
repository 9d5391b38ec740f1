"""Writing files so that they appear whole or not at all, and survive a power cut.

The steps: write a temporary file beside the target, fsync it, rename it over the target, fsync the folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mettle_cache.errors import NoRoomError, StoreError
from mettle_cache.store.format.files import MOST_VECTORS, PARTIAL

Buffer = bytes | memoryview
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_files(files: Sequence[tuple[Path, Sequence[Buffer]]]) -> None:
    """Write each path's buffers, one after another, so that every file appears whole and all of them are durable.

    Nothing appears under a final name before all of the bytes are on the disk.

    Raises
    ------
    NoRoomError
        The disk is full (or a quota or a file size limit is reached); what was written of these files is gone.
    StoreError
        The disk refuses for another reason.
    """
    needed = sum(len(buffer) for _, buffers in files for buffer in buffers)
    staged: list[tuple[Path, Path]] = []
    with disk_errors(files[0][0], needed):
        try:
            for path, buffers in files:
                staged.append((temporary_path(path), path))
                _write_synced(staged[-1][0], buffers)
            for temporary, path in staged:
                os.replace(temporary, path)
        except BaseException:
            for temporary, _ in staged:
                temporary.unlink(missing_ok=True)
            raise
        for folder in dict.fromkeys(path.parent for path, _ in files):
            sync_folder(folder)


def write_file(path: Path, data: bytes) -> None:
    """:func:`write_files` for one file."""
    write_files([(path, [data])])


def write_atomically(path: Path, write: Callable[[Path], None], *, needed: int = 0) -> None:
    """:func:`write_file` for what is large: ``write`` fills a file beside ``path``, without a copy of it in memory.

    ``needed`` is its size in bytes, for the message where the disk is full.

    Raises
    ------
    NoRoomError
        The disk is full; the old file stays, and nothing is left of the new one.
    StoreError
        The disk refuses for another reason.
    """
    temporary = temporary_path(path)
    with disk_errors(path, needed):
        try:
            write(temporary)
            _sync(temporary, os.O_RDONLY)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably."""
    with disk_errors(path, needed=0):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)


def remove_files(paths: Iterable[Path]) -> None:
    """Remove the files that exist, durably."""
    touched: dict[Path, None] = {}
    for path in paths:
        with disk_errors(path, needed=0), suppress(FileNotFoundError):
            path.unlink()
            touched[path.parent] = None
    for folder in touched:
        with disk_errors(folder, needed=0):
            sync_folder(folder)


def write_at(descriptor: int, buffers: Sequence[Buffer], offset: int) -> None:
    """Write buffers one after another into an open file, from ``offset`` on. Raises OSError."""
    views = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while views:
        count = os.pwritev(descriptor, views[:MOST_VECTORS], offset)
        offset += count
        # the kernel stops where it likes: a full disk, 2 GiB, the limit on vectors
        while views and count >= views[0].nbytes:
            count -= views[0].nbytes
            views = views[1:]
        if count:
            views[0] = views[0].cast("B")[count:]


def rename_files(renames: Sequence[tuple[Path, Path]]) -> None:
    """Rename each file, whose content is on the disk already, over another one, durably. Raises as disk_errors."""
    for source, target in renames:
        with disk_errors(target, needed=0):
            os.replace(source, target)
    for folder in dict.fromkeys(target.parent for _, target in renames):
        with disk_errors(folder, needed=0):
            sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def free_bytes(path: Path) -> int:
    """Bytes that this user can still write on the file system where ``path`` is or will be."""
    return shutil.disk_usage(disk_folder(path)).free


def disk_folder(path: Path) -> Path:
    """The folder nearest to ``path``, itself or above it, that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Turn errors of the operating system into ours, which say what was needed, what is free and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NoRoomError(
                f"no room at {path.parent}: {needed:,} bytes were needed, {free_bytes(path):,} are free "
                f"({error.strerror})",
                hint="make room (or raise the quota), then run the same command again",
            ) from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR):
            raise StoreError(
                f"the disk refused {error.filename2 or error.filename or path}: {error.strerror}",
                hint="move away the file or folder that lies there, then run the same command again",
            ) from error
        raise StoreError(
            f"the disk refused {path}: {error.strerror or error}",
            hint="check the disk and the permissions, then run the same command again",
        ) from error


def temporary_path(path: Path) -> Path:
    """A name beside ``path`` for what is to replace it."""
    # the process and thread are in the name so that a stray twin (a task that a cluster started twice) cannot
    # write into this file; sweeping goes by the suffix alone
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, buffers: Sequence[Buffer]) -> None:
    # a new file: neither a leftover nor a link that lies at the name is written through
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.writelines(buffers)
        file.flush()
        os.fsync(file.fileno())
