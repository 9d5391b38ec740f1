"""Whether the processor multiplies tiles of bytes (AMX), and the system lets this process do so."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys

# 0 leaves the tiles alone: what another processor would do can be measured on this one
SWITCH = "METTLE_BYTE_TILES"
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def has_byte_tiles() -> bool:
    """Whether they can be used; asked once. Linux gives a process and its threads the tiles' registers on request."""
    if os.environ.get(SWITCH) == "0":
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-int8")):
        return False
    granted: int = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return granted == 0
