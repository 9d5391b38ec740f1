"""One writer for each part: the shards of a part, and the lock that keeps other processes from writing them.

Beside it one writer at a time for each shard, whoever that is: a cluster may start a task twice.

Locks are the kernel's (flock), so a process that dies leaves nothing that has to be cleared by hand.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from mettle_cache.errors import StoreBusyError, StoreCorruptError, UsageError
from mettle_cache.store.writing.durable import disk_errors

LOCKS = ".locks"
FINISHING = ".finish.lock"
_NAME = re.compile(r"part-(\d{1,9})-of-(\d{1,9})\.lock")
_ATTEMPTS = 100
_SHARD_NAME = re.compile(r"shard-\d{1,9}\.lock")


def part_range(part: tuple[int, int], shards: int) -> range:
    """The shards of part ``(i, n)``: the i-th (from 0) of n consecutive, nearly equal runs.

    Raises
    ------
    UsageError
        There is no such part.
    """
    number, of = part
    if not 0 <= number < of:
        raise UsageError(f"part {number}/{of}: with {of} parts they are 0/{of} to {of - 1}/{of}")
    return range(number * shards // of, (number + 1) * shards // of)


def part_clips(part: tuple[int, int], clips: int, clips_each: int) -> range:
    """The clips of a part, of whole shards of ``clips_each`` clips. Raises as :func:`part_range`."""
    shards = part_range(part, -(-clips // clips_each))
    return range(min(shards.start * clips_each, clips), min(shards.stop * clips_each, clips))


class PartLock:
    """The claim of this process on the shards of one part, until :meth:`release` or the process ends.

    Raises
    ------
    StoreBusyError
        Another process has claimed some of these shards, as this part or as one of another division.
    """

    def __init__(self, store: Path, part: tuple[int, int], shards: int) -> None:
        self._folder = _lock_folder(store)
        number, of = part
        self._path = self._folder / f"part-{number}-of-{of}.lock"
        self._lock = self._acquire(self._path, store)
        self._path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            # claimed first, looked around second: of two processes that come at once at least one sees the other
            for path, other_part in _others(self._folder, self._path):
                mine, taken = part_range(part, shards), part_range(other_part, shards)
                if max(mine.start, taken.start) < min(mine.stop, taken.stop):
                    _remove_unheld(self._acquire(path, store), path)
        except BaseException:
            self.release()
            raise

    @staticmethod
    def _acquire(path: Path, store: Path) -> FileLock:
        lock = FileLock(path, thread_local=False)
        try:
            _acquire_in_folder(lock, store, path, timeout=0)
        except Timeout as error:
            owner = ""
            with suppress(OSError):
                owner = path.read_text(errors="replace").strip()[:200]
            raise StoreBusyError(
                f"{store}: {path.stem} is being written by {owner or 'another process'}",
                hint="wait for it to end, or give each process its own --part i/n of the same n",
            ) from error
        return lock

    def release(self) -> None:
        """Give up the claim and remove its file."""
        _remove_unheld(self._lock, self._path)
        remove_lock_folder(self._folder.parent)


class ShardLock:
    """Held while the files of a shard number are changed, for a clip's time; others wait for it."""

    def __init__(self, store: Path, shard: int) -> None:
        self._store = store
        self._path = store / LOCKS / f"shard-{shard}.lock"
        self._lock = FileLock(self._path, thread_local=False)

    def acquire(self) -> None:
        """Wait for it."""
        with disk_errors(self._path, needed=0):
            _acquire_in_folder(self._lock, self._store, self._path)

    def release(self) -> None:
        """Let others have it."""
        _remove_unheld(self._lock, self._path)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def finish_lock(store: Path) -> Iterator[None]:
    """Held while a store is finished, so that two parts that end together do it one after the other."""
    path = store / FINISHING
    lock = FileLock(path, thread_local=False)
    with disk_errors(path, needed=0):
        _remove_alias(path)
        lock.acquire()
    try:
        yield
    finally:
        _remove_unheld(lock, path)


@contextmanager
def companions_lock(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Held while companions are made in ``folder``; ``waiting`` is called where another process holds it."""
    path = folder / ".lock"
    lock = FileLock(path, thread_local=False)
    with disk_errors(path, needed=0):
        _remove_alias(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    try:
        yield
    finally:
        _remove_unheld(lock, path)


def sweep_locks(store: Path) -> None:
    """Remove the lock files of processes that died."""
    shards = [path for path in (store / LOCKS).glob("*.lock") if _SHARD_NAME.fullmatch(path.name)]
    for path in (*(path for path, _ in _others(store / LOCKS, None)), *shards):
        _remove_alias(path)
        lock = FileLock(path, thread_local=False)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            _remove_unheld(lock, path)
    remove_lock_folder(store)


def remove_lock_folder(store: Path) -> None:
    """Remove the folder of locks where nobody holds one."""
    with suppress(OSError):
        (store / LOCKS).rmdir()


def _acquire_in_folder(lock: FileLock, store: Path, path: Path, *, timeout: float = -1) -> None:
    """Acquire a lock in the folder of locks, which others remove whenever they find it empty."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            _lock_folder(store)
            _remove_alias(path)
            lock.acquire(timeout=timeout)
            return
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _lock_folder(store: Path) -> Path:
    """The folder of locks, made where there is none. Raises StoreCorruptError for a link."""
    folder = store / LOCKS
    if folder.is_symlink():
        raise StoreCorruptError(f"{folder} is a link; a store holds its own files", hint="remove the link")
    folder.mkdir(exist_ok=True)
    return folder


def _others(folder: Path, except_path: Path | None) -> Iterator[tuple[Path, tuple[int, int]]]:
    for path in sorted(folder.glob("*.lock")):
        match = _NAME.fullmatch(path.name)
        if match and path != except_path and int(match[1]) < int(match[2]):
            yield path, (int(match[1]), int(match[2]))


def _remove_alias(path: Path) -> None:
    """Remove what lies at a lock's name and is no lock: a link, or another name of a file, which would be emptied."""
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            path.unlink()


def _remove_unheld(lock: FileLock, path: Path) -> None:
    # while it is held: filelock checks after locking that the path still names the file it has locked
    path.unlink(missing_ok=True)
    lock.release()
