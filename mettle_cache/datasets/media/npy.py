"""A ``.npy`` file as a memory map, or what it is instead."""

from __future__ import annotations

import math
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from mettle_cache.content import describe_content
from mettle_cache.datasets.media.fault import MediaFileError, read_head, require_file

_MAGIC = b"\x93NUMPY"
# what numpy raises for headers that are not its own: it parses them as Python literals
_BAD_HEADER = (OSError, ValueError, TypeError, OverflowError, MemoryError, RecursionError, EOFError, TokenError)


def map_npy(path: Path) -> NDArray[np.generic]:
    """The array in a file, none of which is read yet. Raises MediaFileError; a pickle is never loaded."""
    require_file(path)
    try:
        # a memory map is checked against the file's size, so a header that promises a terabyte takes no memory
        return np.lib.format.open_memmap(path, mode="r")
    except _BAD_HEADER as error:
        raise MediaFileError(path, f"is not a plain .npy array: {_what_it_is(path)}") from error


def _what_it_is(path: Path) -> str:
    head = read_head(path)
    if not head.startswith(_MAGIC):
        return f"it is {describe_content(head)}"
    try:
        with path.open("rb") as file:
            read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[np.lib.format.read_magic(file)[0]](file)
            held = path.stat().st_size - file.tell()
    except (*_BAD_HEADER, KeyError):
        return "its header is damaged"
    if dtype.hasobject:
        return "it holds pickled objects, which are not loaded"
    return f"its header promises {math.prod(shape) * dtype.itemsize} bytes of values, {held} are there"
