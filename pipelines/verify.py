"""Verification of a store, reporting progress."""

from __future__ import annotations

from pathlib import Path

from mettle_cache.pipelines.progress import Progress, terminal_progress
from mettle_cache.store import VerifyReport, verify_store
from mettle_cache.store.format.metadata import load_metadata


def verify_with_progress(path: Path, *, deep: bool, progress: Progress | None = None) -> VerifyReport:
    """:func:`mettle_cache.store.verify_store` with a line or a bar; raises what it raises."""
    progress = progress or terminal_progress()
    progress.start(load_metadata(path).clips, "clips", f"verify {path}")
    try:
        return verify_store(path, deep=deep, advance=progress.advance)
    finally:
        progress.finish()
