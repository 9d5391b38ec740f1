"""One pilot a store: whoever comes first runs it, the others wait until the store is made and take what is there.

The lock is the kernel's, as those of parts: a process that dies leaves nothing that has to be cleared by hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.writing.durable import disk_errors, make_folder
from mettle_cache.store.writing.locks import LOCKS

PILOT_LOCK = "pilot.lock"
POLL_SECONDS = 0.2


@contextmanager
def pilot_lock(store: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Held from before the pilot until the store with its arrays is made; ``waiting`` is called once if it is taken.

    The wait ends with the other process, however it ends, and by a KeyboardInterrupt.

    Raises
    ------
    StoreError
        The store cannot be written to.
    """
    folder = store / LOCKS
    if folder.is_symlink():
        raise StoreCorruptError(f"{folder} is a link; a store holds its own files", hint="remove the link")
    path = folder / PILOT_LOCK
    lock = FileLock(path, thread_local=False)
    with disk_errors(path, needed=0):
        told = False
        while not lock.is_locked:
            make_folder(folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not told:
                    waiting()
                told = True
                time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        # while it is held: whoever waits sees after locking that the path names another file
        path.unlink(missing_ok=True)
        lock.release()
        for empty in (folder, store):
            with suppress(OSError):
                empty.rmdir()
