"""``clips.json``: the ids of the clip axis, written when a store is made; the key holds its digest."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.files import LARGEST_TABLE, read_small, repair_hint
from mettle_cache.store.format.metadata import StoreHead
from mettle_cache.store.format.spec import canonical_json, digest

CLIPS = "clips.json"


def clip_ids_bytes(clips: Sequence[str]) -> bytes:
    """The file's content: canonical JSON, so its digest is the one in the key."""
    return canonical_json(list(clips))


def read_clip_ids(head: StoreHead) -> tuple[str, ...]:
    """The ids, in the order of the clip axis.

    Raises
    ------
    StoreCorruptError
        The file is damaged.
    """
    path = head.path / CLIPS
    data = read_small(path, limit=LARGEST_TABLE, store=head.path)
    ids = json.loads(data) if digest(data) == head.record.key.clips.digest else None
    if not isinstance(ids, list) or len(ids) != head.clips:
        raise StoreCorruptError(f"{path}: not the clips that the store's key names", hint=repair_hint(head.path))
    return tuple(str(clip) for clip in ids)
