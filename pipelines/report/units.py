"""Numbers as people read them: bytes, durations and rates."""

from __future__ import annotations

import math
import re

from mettle_cache.errors import UsageError

_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def count(number: int, thing: str, things: str | None = None) -> str:
    """``1 clip``, ``2 clips``, ``4,097 clips``; ``things`` where the plural has more than an s."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def format_bytes(count: float) -> str:
    """Decimal units, as disks are sold: ``53.9 MB``, ``223 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or abs(count) >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit always returns")


def parse_bytes(text: str) -> int:
    """Bytes of what people write: ``8GB``, ``1.5 GB``, ``512 MiB``.

    Raises
    ------
    UsageError
        No number, no unit, or more digits than anything has bytes.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]{1,3})\s*", text, flags=re.ASCII)
    size = _SIZES.get(match[2].lower()) if match else None
    if match is None or size is None:
        raise UsageError(f"'{text}' is no size", hint="write a number and kB, MB, GB, TB or MiB, GiB: for example 8GB")
    return int(float(match[1]) * size)


def format_seconds(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 20 s``, ``5 h 12 min``, ``2 d 3 h``; ``?`` when it cannot be known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for name, size, minor, minor_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            major, rest = divmod(round(seconds / minor_size) * minor_size, size)
            return f"{major:.0f} {name} {rest / minor_size:.0f} {minor}"
    return f"{seconds:.0f} s"


def format_rate(per_second: float) -> str:
    """A rate without its unit, three significant digits: ``0.25``, ``56.3``, ``1240``."""
    if not math.isfinite(per_second):
        return "?"
    digits = 0 if per_second >= 100 else 1 if per_second >= 10 else 2 if per_second >= 0.1 else 4
    return f"{per_second:.{digits}f}"
