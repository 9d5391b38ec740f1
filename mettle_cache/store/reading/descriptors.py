"""Open files, kept for the next read: opening one costs as much as reading a small block."""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST = 512


@dataclass
class _Open:
    descriptor: int
    users: int = 0


class _Lease:
    """A context manager as a class: a generator takes longer than the rest of a small read."""

    __slots__ = ("_cache", "_entry")

    def __init__(self, cache: DescriptorCache, entry: _Open) -> None:
        self._cache = cache
        self._entry = entry

    def __enter__(self) -> int:
        return self._entry.descriptor

    def __exit__(self, *_: object) -> None:
        self._cache.give_back(self._entry)


class DescriptorCache:
    """The files that were used last, open; thread-safe. A file is never closed while somebody reads from it.

    ``open_file`` opens a path and checks it; at most ``capacity`` files stay open when nobody uses them (by default a
    quarter of what the process may have, or 512).
    """

    def __init__(self, open_file: Callable[[str], int], capacity: int | None = None) -> None:
        self._open_file = open_file
        self._capacity = (
            min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4) if capacity is None else capacity
        )
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    def lease(self, path: str) -> _Lease:
        """A descriptor of ``path`` that stays open within the ``with`` block; raises what ``open_file`` raises."""
        return _Lease(self, self._take(path))

    def give_back(self, entry: _Open) -> None:
        """The end of a lease."""
        with self._lock:
            entry.users -= 1
            self._evict()

    def close(self) -> None:
        """Close every file; the cache can be used again."""
        with self._lock:
            _close_all(self._open)

    def _take(self, path: str) -> _Open:
        with self._lock:
            entry = self._open.get(path)
            if entry is not None:
                self._open.move_to_end(path)
                entry.users += 1
                return entry
        descriptor = self._open_file(path)
        with self._lock:
            # another thread may have opened it meanwhile; one of the two is enough
            entry = self._open.setdefault(path, _Open(descriptor))
            entry.users += 1
        if entry.descriptor != descriptor:
            os.close(descriptor)
        return entry

    def _evict(self) -> None:
        while len(self._open) > self._capacity:
            # the one used longest ago comes first, and is nearly always idle
            idle = next((path for path, entry in self._open.items() if entry.users == 0), None)
            if idle is None:
                return
            os.close(self._open.pop(idle).descriptor)


def _close_all(files: OrderedDict[str, _Open]) -> None:
    while files:
        os.close(files.popitem()[1].descriptor)
