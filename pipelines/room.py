"""Whether a disk can hold what is about to be written."""

from __future__ import annotations

from pathlib import Path

from mettle_cache.errors import NoRoomError
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.store.writing.durable import free_bytes

# what the file system needs for itself
ROOM_MARGIN = 1.02


def check_room(out: Path, needed: int) -> None:
    """Refuse to begin what the disk of ``out`` cannot hold.

    Raises
    ------
    NoRoomError
        Fewer than ``needed`` bytes, and a margin for the file system, are free.
    """
    free = free_bytes(out)
    if needed * ROOM_MARGIN > free:
        raise NoRoomError(
            f"{out} still needs {format_bytes(needed * ROOM_MARGIN)}, but {format_bytes(free)} are free there",
            hint="see what other choices take: `mettle plan`; or give another disk with --out, fewer --layers, "
            "or --codec int4",
        )
