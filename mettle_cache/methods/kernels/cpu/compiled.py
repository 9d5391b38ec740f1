"""How the kernels are compiled, where the machine code is kept, and what the compiled files share.

Numba compiles a cached function anew when its own file changes, but not when a function that it calls does. So every
kernel is kept in a folder named by a digest of all files here: a change to any of them takes effect at the next start.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite.ir import FloatType, IntType
from numba import njit
from numba.core import config, event, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mettle_cache.paths import user_cache_folder

Array = NDArray[Any]

# sums may be reordered into vectors; infinities and NaN keep their meaning
FAST = {"contract", "reassoc", "nsz", "arcp"}
LINE = 64  # bytes of a cache
# the type by which compiled code tells packed int4 codes, two a byte; pooling.py hands over no other unsigned bytes
PACKED = types.uint8
NEWEST_KEPT = 4
UNUSED_SECONDS = 7 * 24 * 3600.0
_SOURCES = Path(__file__).parent
_numba_config = threading.Lock()


def compiled(*, fastmath: set[str] | bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function of a kernel; ``fastmath`` names what LLVM may do to floats, as Numba's own option."""

    def compile_function(function: Callable[..., Any]) -> Any:
        folder = cache_folder()
        if folder is None:
            return njit(nogil=True, fastmath=fastmath)(function)
        with _numba_config:
            before = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
            # Numba reads them here and now; without a locator of its own it may choose a folder that outlives a change
            config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), "UserProvidedCacheLocator"
            try:
                return njit(nogil=True, fastmath=fastmath, cache=True)(function)
            finally:
                config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = before

    return compile_function


@functools.cache
def cache_folder() -> Path | None:
    """The folder that keeps the machine code of these files; None where none can be written."""
    bases = [_SOURCES / "__pycache__" / "kernels"]
    user = user_cache_folder()
    bases[:0] = [user / "kernels"] if user else []
    # NUMBA_CACHE_DIR, or what the program set
    bases[:0] = [Path(config.CACHE_DIR, "mettle-cache-kernels")] if config.CACHE_DIR else []
    for base in bases:
        folder = base / folder_digest(_SOURCES)
        with contextlib.suppress(OSError):
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            os.utime(folder)
            if is_new:
                remove_unused(base)
            return folder
    return None


def folder_digest(sources: Path) -> str:
    """A digest of the names and contents of a folder's Python files, and of the version of Numba."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(sources.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"\n{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def remove_unused(base: Path) -> None:
    """Remove machine code of other versions that no process has used for a week, except for the newest few.

    A process marks its folder when it starts and compiles soon after, so that none loses a folder under its hands.
    """
    folders: list[tuple[float, Path]] = []
    for folder in base.iterdir():
        # another process may be removing it too
        with contextlib.suppress(OSError):
            folders.append((folder.stat().st_mtime, folder))
    for used, folder in sorted(folders)[:-NEWEST_KEPT]:
        if time.time() - used > UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def announced(note: Callable[[str], None]) -> Iterator[None]:
    """Call ``note`` once if a kernel is compiled inside the block; loading one from the cache does not count."""

    class Announcer(event.Listener):  # type: ignore[misc]
        said = False

        def on_start(self, event: Any) -> None:
            is_kernel = event.data["dispatcher"].py_func.__module__.startswith(__name__.removesuffix("compiled"))
            if is_kernel and not self.said:
                self.said = True
                once = "once for this machine" if cache_folder() else "for this process alone: no cache can be written"
                note(f"compiling kernels, {once}")

        def on_end(self, event: Any) -> None: ...

    with event.install_listener("numba:compile", Announcer()):
        yield


@compiled()
def aligned(rows: int, nbytes: int) -> Any:
    """Memory ``[rows, nbytes]`` that starts on a cache line: a vector across two lines loads at half the speed."""
    memory = np.empty(rows * nbytes + LINE, np.int8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + rows * nbytes].reshape(rows, nbytes)


@intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """A float's bits as an integer. Bits of absolute values are ordered as the values are, with NaN last."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], IntType(32))

    return types.int32(types.float32), build


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float that has these bits."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], FloatType())

    return types.float32(types.int32), build


@compiled()
def vector_of(vectors: tuple[Array, Array, Array], frame: int, p: int) -> Any:
    """The ``p``-th vector of a frame: see :func:`mettle_cache.methods.kernels.cpu.float_products.score_frames`."""
    queries, d_context, d_mixed = vectors
    if p < queries.shape[1]:
        return queries[frame % queries.shape[0], p]
    p -= queries.shape[1]
    if p < d_context.shape[0]:
        return d_context[p, frame]
    return d_mixed[frame, p - d_context.shape[0]]
