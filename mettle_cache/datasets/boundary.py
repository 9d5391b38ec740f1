"""The line between a clip that fails and a run that does.

Whatever goes wrong while one clip is read is that clip's: codec libraries raise what they like, and so do data sets of
other packages. What is no clip's doing ends the run: the machine's memory, its open files, its disks.
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mettle_cache.datasets.media.allowance import clip_limit
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.errors import DatasetError, MachineError, MettleError

_OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT})
_LONGEST_CHAIN = 20


@contextmanager
def clip_errors(path: Path, root: Path) -> Iterator[None]:
    """What is raised in here, while the file or folder ``path`` of a data set in ``root`` is read, as a MediaFileError.

    Raises
    ------
    MediaFileError
        The clip fails; says why.
    MachineError, DatasetError
        The run ends: the machine is at an end, or ``root`` is not there any more.
    """
    try:
        yield
    except Exception as error:
        _end_run(error, f"{path} was read")
        _require_root(root)
        if isinstance(error, MediaFileError):
            raise
        raise MediaFileError(path, describe(error), hint=getattr(error, "hint", None)) from error


def describe(error: BaseException) -> str:
    """An error in one line, the same in every run: our own by their messages, others with their types."""
    if isinstance(error, MettleError):
        return error.message
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - an error that cannot even be printed
        lines = []
    what = f": {lines[0].strip()}" if lines else ""
    # where an object lies in memory differs from run to run
    return re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", f"{type(error).__name__}{what}")


def _end_run(error: BaseException, when: str) -> None:
    """Raise MachineError for an error that is the machine's, or that was raised because of one that is."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            raise MachineError(
                f"the machine is at an end: {os.strerror(cause.errno)}, while {when}",
                hint="free what is used up, then run the same command again",
            ) from error
        if is_out_of_memory(cause):
            raise out_of_memory(when) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's memory ran out; not for an array that no clip may take: then its file asks too much."""
    if isinstance(error, RuntimeError):
        return "DefaultCPUAllocator" in str(error)
    if not isinstance(error, MemoryError):
        return False
    # numpy says how much it was asked for
    shape, dtype = getattr(error, "shape", ()), getattr(error, "dtype", None)
    return dtype is None or math.prod(shape) * dtype.itemsize <= clip_limit()


def out_of_memory(when: str) -> MachineError:
    """The error for memory that ran out ``when`` something happened."""
    return MachineError(
        f"this machine's memory ran out while {when}",
        hint="end other programs, or let clips take less at a time with --memory, and run the same command again; if "
        "it is always this clip, take its files away: clips that are missing are left out with --skip-missing",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    current: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def _require_root(root: Path) -> None:
    """Raise DatasetError where a data set's folder has gone, or has lost everything, as a disk that was unmounted."""
    try:
        with os.scandir(root) as entries:
            there = next(entries, None) is not None
        what = "is empty now"
    except OSError as error:
        there, what = False, f"cannot be read any more ({error.strerror})"
    if not there:
        raise DatasetError(
            f"the data set's folder {root} {what}",
            hint="bring its disk back, then run the same command again",
        )
