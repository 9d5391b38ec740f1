"""Reading back what a writer did not write itself, before it vouches for a store."""

from __future__ import annotations

from collections.abc import Sequence

from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.writing.writer import StoreWriter


def read_back(writer: StoreWriter, clips: Sequence[int], progress: Progress) -> list[int]:
    """Compare clips that earlier runs left with their checksums; those that are damaged are forgotten, and returned."""
    if not clips:
        return []
    progress.start(len(clips), "clips", f"read back what {writer.path} has")
    try:
        damaged = writer.read_back(clips, progress.advance)
    finally:
        progress.finish()
    for first, *_ in damaged.values():
        progress.note(f"damaged since it was written: {first}")
    return list(damaged)
