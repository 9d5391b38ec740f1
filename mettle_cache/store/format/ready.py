"""``READY``, the record that says that a store is whole; and whether the files beside the shards are intact."""

from __future__ import annotations

from collections.abc import Mapping

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.clip_ids import CLIPS
from mettle_cache.store.format.files import LARGEST_JSON, LARGEST_TABLE, read_small, repair_hint
from mettle_cache.store.format.metadata import READY, StoreHead
from mettle_cache.store.format.records import ReadyRecord
from mettle_cache.store.format.spec import digest
from mettle_cache.store.format.tables import MANIFEST, SAMPLES


def read_ready(head: StoreHead) -> ReadyRecord | None:
    """The record, or None for a store that is not finished.

    Raises
    ------
    StoreCorruptError
        It is damaged or of another store.
    """
    path = head.path / READY
    if not path.exists() and not path.is_symlink():
        return None
    data = read_small(path, limit=LARGEST_JSON, store=head.path)
    try:
        record = ReadyRecord.from_bytes(data)
    except ValueError as error:
        raise StoreCorruptError(f"{path}: {str(error).splitlines()[0]}", hint=repair_hint(head.path)) from error
    vouched = {name: found for name, found in record.files.items() if name != MANIFEST}
    if record.key != head.record.key_digest or vouched != static_digests(head) or MANIFEST not in record.files:
        raise StoreCorruptError(f"{path}: it is of another store", hint=repair_hint(head.path))
    return record


def static_digests(head: StoreHead) -> dict[str, str]:
    """Name and digest of every file that is written when a store is made."""
    files = {name: digest(content) for name, content in head.metadata_files().items()}
    return {**files, CLIPS: head.record.key.clips.digest, SAMPLES: head.record.samples}


def damaged_files(head: StoreHead, expected: Mapping[str, str]) -> list[tuple[str, str]]:
    """Files that do not have the digests that are expected of them: name, and what is wrong."""
    found = []
    for name, wanted in expected.items():
        try:
            data = read_small(head.path / name, limit=LARGEST_TABLE, store=head.path)
        except StoreCorruptError as error:
            found.append((name, error.message.removeprefix(f"{head.path / name}: ")))
            continue
        if digest(data) != wanted:
            found.append((name, "not the bytes that were written"))
    return found


def check_files(head: StoreHead, ready: ReadyRecord | None) -> None:
    """Refuse a store whose metadata or tables are damaged. Raises StoreCorruptError."""
    for name, what in damaged_files(head, static_digests(head) if ready is None else ready.files):
        raise StoreCorruptError(f"{head.path / name}: {what}", hint=repair_hint(head.path))
