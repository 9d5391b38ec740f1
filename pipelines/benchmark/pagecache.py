"""The system's page cache: put files out of it, and see how much of them is in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def evict(files: Iterable[Path]) -> None:
    """Ask the system to forget these files' pages; what was not yet written to disk stays."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_fraction(files: Iterable[Path]) -> float:
    """The fraction of these files' pages that is in memory, as ``mincore`` tells."""
    pages = [_cached_pages(path) for path in files]
    total = sum(all_pages for _, all_pages in pages)
    return sum(cached for cached, _ in pages) / total if total else 0.0


def _cached_pages(path: Path) -> tuple[int, int]:
    size = path.stat().st_size
    if size == 0:
        return 0, 0
    count = -(-size // mmap.PAGESIZE)
    # a private writable mapping, because ctypes gives no address of a read-only one
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        view = (ctypes.c_char * size).from_buffer(mapped)
        resident = (ctypes.c_ubyte * count)()
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), resident)
        del view  # the mapping cannot be closed while something points into it
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
    return sum(page & 1 for page in resident), count
