"""Memory that a step gives back is wanted again by the next one: keep it in the process."""

from __future__ import annotations

import ctypes
import sys

# of glibc's mallopt, and the largest threshold that it takes: a gradient of the widest layers fits
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, where it is glibc; whether it does.

    It would give blocks of megabytes back to the system, which then clears every page of the next ones: in training a
    twentieth of a step. The peak does not change; what was needed once stays until the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _NEVER))
