"""LLP's published R(2+1)D features, which travel with the samples: 10 KB a video (spec-avvp.md 1.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tokenize import TokenError

import numpy as np

from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.datasets.textfile import Problems

FOLDER = "LLP_dataset/feats/r2plus1d_18"
SHAPE = (10, 512)
"""Seconds and channels."""

# what numpy raises for headers that are not its own: it parses them as Python literals
_BAD_FILE = (OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError, TokenError)


def read_motion(root: Path, ids: Sequence[str], problems: Problems) -> list[bytes | None] | None:
    """``SHAPE`` little-endian float16 values of each id, None for an id without a file; None if there is no folder.

    A file that is there but holds something else is added to ``problems``.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        return None
    files = [folder / f"{clip}.npy" for clip in ids]
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        read = list(pool.map(_read, files))
    for path, found in zip(files, read, strict=True):
        if isinstance(found, str):
            problems.add(f"{path}: {found}")
    return [None if isinstance(found, str) else found for found in read]


def _read(path: Path) -> bytes | str | None:
    """The packed features, what is wrong with the file, or None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        require_file(path)
        # a memory map is checked against the file's size, so a header that promises a terabyte takes no memory
        stored = np.lib.format.open_memmap(path, mode="r")
    except MediaFileError as error:
        return error.what
    except _BAD_FILE:
        return "is not a plain .npy array (pickles are not loaded)"
    if stored.dtype.kind != "f" or stored.shape != SHAPE:
        return f"holds {stored.dtype} of shape {stored.shape}, not floats of shape {SHAPE}"
    with np.errstate(over="ignore"):
        packed = np.asarray(stored).astype("<f2")
    return (
        packed.tobytes() if np.isfinite(packed).all() else "holds values that are not finite numbers in half precision"
    )
