"""Whether another process works in a store or a run now, and keeping others out while something is removed there.

Writers hold the kernel's locks on files of the folder (:mod:`mettle_cache.store.writing.locks`, ``.lock`` of a run).
Here they are taken as they lie: none is made, and none is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mettle_cache.errors import StoreBusyError
from mettle_cache.store.format.files import COMPANIONS
from mettle_cache.store.writing.locks import FINISHING, LOCKS


def lock_files(folder: Path) -> list[Path]:
    """The files in a store or a run that its writers lock."""
    patterns = (".lock", FINISHING, f"{LOCKS}/*.lock", f"{COMPANIONS}/.lock", f"{COMPANIONS}/*/{LOCKS}/*.lock")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold every lock of a store or a run.

    Raises
    ------
    StoreBusyError
        Another process holds one of them.
    """
    with ExitStack() as held:
        for path in lock_files(folder):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:
                continue  # a link, or gone since: no writer locks it
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise StoreBusyError(
                    f"{folder} is in use: another process writes, trains or evaluates there",
                    hint="wait for it to end",
                ) from error
        yield


def is_busy(folder: Path) -> bool:
    """Whether another process works in a store or a run at this moment."""
    try:
        with claim(folder):
            return False
    except StoreBusyError:
        return True
