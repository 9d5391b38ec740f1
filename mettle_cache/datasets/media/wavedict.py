"""``AVS.npy``: one file that holds the sound of many videos, a pickled dict of float arrays.

Source: docs/protocols/avs.md, "Files on disk".

The file is walked once to find where each array lies (:mod:`mettle_cache.datasets.media.pickled`); a recording is then
read from there. Nothing is unpickled, and no more than one recording is in memory.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.datasets.media.pickled import ArrayRecord, Span, UnsafePickleError, read_structure

MAX_FILE_BYTES = 4 << 30
"""296 recordings of the largest published file take 0.4 GB as float64."""

WAVE_DICT_SUFFIX = ".npy"
_LONGEST_LINE = 4096

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \(\), \}\s*")
_FLOATS = {f"{order}{code}" for order in "<>" for code in ("f2", "f4", "f8")}


class WaveDict:
    """The recordings of one file, by key.

    Raises
    ------
    MediaFileError
        The file is not a dict of arrays as ``np.save`` writes it, is too large, or names anything but arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = require_file(path).st_size
        if size > MAX_FILE_BYTES:
            raise MediaFileError(path, f"is {size} bytes long: more than {MAX_FILE_BYTES}")
        try:
            with path.open("rb") as file:
                content = _Bounded(file, size)
                _skip_header(content)
                self._arrays = _arrays_of(read_structure(content))
        except OSError as error:
            raise MediaFileError(path, f"cannot be read: {error.strerror}") from error
        except UnsafePickleError as error:
            raise MediaFileError(
                path, f"is not a dict of arrays: {error}", hint="give the recordings as audio_wav files instead"
            ) from error

    def check(self, key: str, samples: int) -> None:
        """Raise MediaFileError unless ``key`` is an array of that many floats."""
        self._locate(key, samples)

    def read(self, key: str, samples: int) -> NDArray[np.float32]:
        """The recording ``[samples]``.

        Raises
        ------
        MediaFileError
            There is no such key, or its array is not of floats or of another size.
        """
        offset, dtype = self._locate(key, samples)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(samples * dtype.itemsize)
        except OSError as error:
            raise MediaFileError(self.path, f"cannot be read: {error.strerror}") from error
        if len(data) != samples * dtype.itemsize:
            raise MediaFileError(self.path, f"has changed while it was read: {key!a} is cut off")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which require_finite refuses
            return np.frombuffer(data, dtype).astype(np.float32)

    def _locate(self, key: str, samples: int) -> tuple[int, np.dtype]:
        if key not in self._arrays:
            raise MediaFileError(self.path, f"has no recording {key!a}")
        record = self._arrays[key]
        name = f"{record.dtype.order}{record.dtype.code}" if record.dtype is not None else ""
        if name not in _FLOATS or not isinstance(record.data, Span):
            raise MediaFileError(self.path, f"{key!a} is not an array of floats")
        dtype = np.dtype(name)
        if math.prod(record.shape) != samples or record.data.length != samples * dtype.itemsize:
            raise MediaFileError(self.path, f"{key!a} has shape {record.shape[:4]}, not ({samples},)")
        return record.data.offset, dtype


class _Bounded:
    """What pickletools asks of a file, without memory for bytes that a damaged length only promises."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_LINE)

    def tell(self) -> int:
        return self._file.tell()


class WaveFiles:
    """Files of recordings, each walked once, whoever asks and however often; a bad one is remembered, too."""

    def __init__(self) -> None:
        self._opened: dict[Path, WaveDict | MediaFileError] = {}
        self._lock = Lock()

    def open(self, path: Path) -> WaveDict:
        """The recordings at ``path``. Raises MediaFileError."""
        with self._lock:
            if path not in self._opened:
                try:
                    self._opened[path] = WaveDict(path)
                except MediaFileError as error:
                    self._opened[path] = error
            opened = self._opened[path]
        if isinstance(opened, MediaFileError):
            raise MediaFileError(opened.path, opened.what, hint=opened.hint)
        return opened


def _skip_header(content: _Bounded) -> None:
    """Move to the pickle of a 0-dimensional array of objects, which ``np.save`` makes of a dict."""
    magic = content.read(8)
    wide = magic[6:7] != b"\x01"
    length = content.read(4 if wide else 2)
    if magic[:6] != _MAGIC or len(length) != (4 if wide else 2):
        raise UnsafePickleError("it is no .npy file")
    header = content.read(min(struct.unpack("<I" if wide else "<H", length)[0], io.DEFAULT_BUFFER_SIZE))
    if not _HEADER.fullmatch(header):
        raise UnsafePickleError("its .npy header is not that of one pickled object")


def _arrays_of(value: object) -> Mapping[str, ArrayRecord]:
    if not isinstance(value, ArrayRecord) or not isinstance(value.data, list) or len(value.data) != 1:
        raise UnsafePickleError("the pickle holds something else")
    content = value.data[0]
    if not isinstance(content, dict):
        raise UnsafePickleError(f"the array holds a {type(content).__name__}")
    for key, array in content.items():
        if not isinstance(array, ArrayRecord):
            raise UnsafePickleError(f"{key[:60]!a} is a {type(array).__name__}")
    return content
