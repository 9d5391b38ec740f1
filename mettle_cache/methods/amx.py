"""Whether the processor multiplies tiles of bytes (AMX), and the system lets this process do so."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def has_byte_tiles() -> bool:
    """Ask once; Linux gives a process the tiles' registers on request, and its threads with it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-int8")):
        return False
    granted: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return granted == 0
