"""``READY``: the record that says that a store is whole, and the files that it vouches for."""

from __future__ import annotations

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.files import LARGEST_JSON, LARGEST_TABLE, read_small, repair_hint
from mettle_cache.store.head import READY, StoreHead
from mettle_cache.store.records import ReadyRecord
from mettle_cache.store.spec import digest
from mettle_cache.store.tables import MANIFEST, SAMPLES


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
    if record.key != head.record.key_digest:
        raise StoreCorruptError(f"{path}: it is of another store", hint=repair_hint(head.path))
    return record


def damaged_static_files(head: StoreHead, ready: ReadyRecord) -> list[tuple[str, str]]:
    """Files of the store that are not as ``READY`` says: name, and what is wrong."""
    vouched = {*head.metadata_files(), SAMPLES, MANIFEST}
    if set(ready.files) != vouched:
        return [(READY, f"it does not vouch for {', '.join(sorted(vouched ^ set(ready.files)))}")]
    found = []
    for name, expected in ready.files.items():
        try:
            data = read_small(head.path / name, limit=LARGEST_TABLE, store=head.path)
        except StoreCorruptError as error:
            found.append((name, error.message.removeprefix(f"{head.path / name}: ")))
            continue
        if digest(data) != expected:
            found.append((name, "not the bytes that READY vouches for"))
    return found


def check_static_files(head: StoreHead, ready: ReadyRecord) -> None:
    """Refuse a store whose metadata or tables are damaged. Raises StoreCorruptError."""
    for name, what in damaged_static_files(head, ready):
        raise StoreCorruptError(f"{head.path / name}: {what}", hint=repair_hint(head.path))
