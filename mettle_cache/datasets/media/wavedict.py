"""``AVS.npy``: one file that holds the sound of many videos, a pickled dict of float arrays.

Source: docs/protocols/avs.md, "Files on disk".

The file is walked once to find where each array lies (:mod:`mettle_cache.datasets.media.pickled`); a recording is then
read from there. Nothing is unpickled, and no more than one recording is in memory.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.arrays import check_array, to_mono
from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.datasets.media.pickled import ArrayRecord, Span, UnsafePickleError, read_structure

MAX_FILE_BYTES = 4 << 30
"""296 recordings of the largest published file take 0.4 GB as float64."""

WAVE_DICT_SUFFIX = ".npy"
_LONGEST_LINE = 4096
_LONGEST_DATA = 64 << 20
"""Bytes of one array; a minute of eight channels as float64 has fewer."""

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \(\), \}\s*")
_NUMBERS = {f"{order}{code}" for order in "<>" for code in ("f2", "f4", "f8", "i2")}


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
                self._version = _version(file)
                content = _Bounded(file, size)
                _skip_header(content)
                self._arrays = _arrays_of(read_structure(content))
        except OSError as error:
            raise MediaFileError(path, f"cannot be read: {error.strerror}") from error
        except UnsafePickleError as error:
            raise MediaFileError(
                path, f"is not a dict of arrays: {error}", hint="give the recordings as audio_wav files instead"
            ) from error

    def check(self, key: str, segments: int) -> None:
        """Raise MediaFileError unless ``key`` is an array that can be read as that many seconds."""
        self._locate(key, segments)

    def read(self, key: str, segments: int) -> NDArray[np.float32]:
        """The recording ``[n]``, of about ``segments`` seconds at ``NPY_RATE``.

        Raises
        ------
        MediaFileError
            There is no such key, or its array is of another kind or length.
        """
        record, span, dtype = self._locate(key, segments)
        try:
            with self.path.open("rb") as file:
                file.seek(span.offset)
                data = file.read(span.length)
                version = _version(file)
        except OSError as error:
            raise MediaFileError(self.path, f"cannot be read: {error.strerror}") from error
        if len(data) != span.length:
            raise MediaFileError(self.path, f"has changed while it was read: {key!a} is cut off")
        if version != self._version:
            # where its arrays lay says nothing of another file: anything could be taken for sound
            raise MediaFileError(self.path, "has changed since this run began", hint="run the same command again")
        array = np.frombuffer(data, dtype).reshape(record.shape, order="F" if record.fortran else "C")
        return to_mono(self.path, array, segments)

    def _locate(self, key: str, segments: int) -> tuple[ArrayRecord, Span, np.dtype]:
        if key not in self._arrays:
            raise MediaFileError(self.path, f"has no recording {key!a}")
        record = self._arrays[key]
        name = f"{record.dtype.order}{record.dtype.code}" if record.dtype is not None else ""
        if name not in _NUMBERS or not isinstance(record.data, Span):
            raise MediaFileError(self.path, f"{key!a} is not an array of floats or 16-bit integers")
        dtype = np.dtype(name)
        check_array(self.path, record.shape, dtype, segments, name=ascii(key))
        if record.data.length != math.prod(record.shape) * dtype.itemsize:
            raise MediaFileError(
                self.path, f"{key!a} has {record.data.length} bytes, too many or too few for its shape"
            )
        return record, record.data, dtype


def _version(file: BinaryIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Bounded:
    """What pickletools asks of a file, without memory for bytes that a damaged length only promises."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        if count > _LONGEST_DATA:
            raise UnsafePickleError(f"a damaged pickle, or one array of {count} bytes at byte {self._file.tell()}")
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
