"""The shards that a process is writing: a few at a time, each by one process at a time."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from mettle_cache.store.format.metadata import StoreMetadata
from mettle_cache.store.writing.clip_log import KnownRows
from mettle_cache.store.writing.locks import ShardLock, remove_lock_folder
from mettle_cache.store.writing.shard_files import ShardFiles

# clips come nearly in order; a clip more or less behind finds its shard still open
_MOST_IDLE = 2
# these and what is being written, for estimates
MOST_OPEN = _MOST_IDLE + 2


class _Open:
    """A shard's files, and who of this process is at them."""

    def __init__(self, files: ShardFiles, lock: ShardLock) -> None:
        self.files = files
        self.lock = lock
        self.users = 0
        self._claims = 0
        self._mutex = threading.Lock()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes, and other writers of this one, from this shard number."""
        with self._mutex:
            if self._claims == 0:
                self.lock.acquire()
                self.files.refresh()
            self._claims += 1
        try:
            yield
        finally:
            with self._mutex:
                self._claims -= 1
                if self._claims == 0:
                    self.lock.release()


class OpenShards:
    """The shard numbers that a writer has open. Thread-safe.

    A shard that is complete is sealed when it is closed, not before: a clip of it that is written again in the same
    run needs no copy then.
    """

    def __init__(self, metadata: StoreMetadata, known: KnownRows) -> None:
        self._metadata = metadata
        self._known = known
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def use(self, shard: int) -> Iterator[ShardFiles]:
        """A shard number's files, which no other process and no other writer changes meanwhile."""
        with self._lock:
            entry = self._open.get(shard)
            if entry is None:
                files = ShardFiles(self._metadata, self._known, shard)
                entry = self._open[shard] = _Open(files, ShardLock(self._metadata.path, shard))
            self._open.move_to_end(shard)
            entry.users += 1
        try:
            with entry.claimed():
                yield entry.files
        finally:
            with self._lock:
                entry.users -= 1
        self._close_idle(_MOST_IDLE)

    def close(self, *, seal: bool = True) -> None:
        """Close all that are idle; those that are complete are sealed unless ``seal`` is off."""
        self._close_idle(0, seal=seal)
        remove_lock_folder(self._metadata.path)

    def _close_idle(self, most: int, *, seal: bool = True) -> None:
        while True:
            with self._lock:
                idle = [shard for shard, entry in self._open.items() if entry.users == 0]
                if len(idle) <= most:
                    return
                entry = self._open.pop(idle[0])
            try:
                if seal:
                    with entry.claimed():
                        if entry.files.is_complete() and not entry.files.is_sealed(deep=True):
                            entry.files.seal()
            finally:
                entry.files.close()


def _close_all(entries: OrderedDict[int, _Open]) -> None:
    while entries:
        entries.popitem()[1].files.close()
