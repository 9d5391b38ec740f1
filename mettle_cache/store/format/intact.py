"""Whether the files beside the shards are what they must be: metadata, ids, tables, static arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mettle_cache.errors import StoreCorruptError, StoreUnfinishedError
from mettle_cache.store.format.files import LARGEST_TABLE, read_expected, repair_hint
from mettle_cache.store.format.metadata import RESUME_HINT, StoreMetadata
from mettle_cache.store.format.records import ReadyRecord


def damaged_files(metadata: StoreMetadata, expected: Mapping[str, str]) -> list[tuple[str, str]]:
    """Files that do not have the digests that are expected of them: name, and what is wrong."""
    damaged = []
    for name, expected_digest in expected.items():
        path = metadata.path / name
        try:
            read_expected(path, expected=expected_digest, limit=LARGEST_TABLE, store=metadata.path)
        except StoreCorruptError as error:
            damaged.append((name, error.message.removeprefix(f"{path}: ")))
    return damaged


def missing_so_far(metadata: StoreMetadata) -> list[str]:
    """Files of an unfinished store that the run that was making it had not written when it was stopped.

    They are all written before the first commit, so a file that is missing beside commits was lost.
    """
    if metadata.logged_shards():
        return []
    return [name for name in metadata.static_digests() if not os.path.lexists(metadata.path / name)]


def check_files(metadata: StoreMetadata, ready: ReadyRecord | None) -> None:
    """Refuse a store whose metadata or tables are damaged, or not all written yet.

    Raises
    ------
    StoreCorruptError, StoreUnfinishedError
    """
    if ready is None and missing_so_far(metadata):
        raise StoreUnfinishedError(
            f"{metadata.path} is unfinished: its making was stopped before all of its metadata were written",
            hint=RESUME_HINT,
        )
    for name, what in damaged_files(metadata, metadata.static_digests() if ready is None else ready.files):
        raise StoreCorruptError(f"{metadata.path / name}: {what}", hint=repair_hint(metadata.path))
