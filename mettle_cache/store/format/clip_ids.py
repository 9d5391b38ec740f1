"""The ids of the clip axis, and ``clips.json``, which holds them: what an id may be, written and read.

Ids end up in messages, tables and the paths of media, so the rules hold for reading as for writing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mettle_cache.errors import StoreCorruptError
from mettle_cache.store.format.digests import canonical_json, digest
from mettle_cache.store.format.files import CLIPS_FILE, read_small, repair_hint

MOST_CLIPS = 1 << 21
_LONGEST_ID = 256
LARGEST_IDS = 64 << 20
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')


def id_problems(clips: Sequence[str]) -> Iterator[str]:
    """What is wrong with a list of clip ids."""
    if not clips:
        yield "no clips"
    if len(clips) > MOST_CLIPS:
        yield f"{len(clips):,} clips, more than the {MOST_CLIPS:,} that a store may have"
    seen: dict[str, str] = {}
    for clip in clips:
        shown = ascii(clip[:40])
        if not 0 < len(clip) <= _LONGEST_ID:
            yield f"clip id {shown} must have 1 to {_LONGEST_ID} characters, not {len(clip)}"
        elif not clip.isprintable() or "\\" in clip or clip.startswith("/") or ".." in clip.split("/"):
            yield f"clip id {shown} holds a control character, a backslash, or leads out of its folder"
        looks = unicodedata.normalize("NFKC", clip)
        if looks in seen:
            yield f"clip ids {seen[looks][:40]!a} and {shown} are the same or look the same"
        seen[looks] = clip


def clip_ids_bytes(clips: Sequence[str]) -> bytes:
    """The content of ``clips.json``: canonical JSON, so that its digest is the one in the key."""
    return canonical_json(list(clips))


def read_clip_ids(store: Path, *, count: int, expected: str) -> tuple[str, ...]:
    """The ids of the store at ``store``, in the order of the clip axis, of which there must be ``count``.

    Raises
    ------
    StoreCorruptError
        The file is missing or has another digest than ``expected``, or holds what no writer writes.
    """
    path = store / CLIPS_FILE
    data = read_small(path, limit=LARGEST_IDS, store=store)
    if digest(data) != expected or not _is_list_of_strings(data, count):
        raise StoreCorruptError(f"{path}: not the clips that the store's key names", hint=repair_hint(store))
    try:
        ids = tuple(json.loads(data))
        problem = next(id_problems(ids), None)
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        raise StoreCorruptError(f"{path}: {problem}", hint=repair_hint(store))
    return ids


def _is_list_of_strings(data: bytes, count: int) -> bool:
    """Whether JSON is a list of ``count`` strings and nothing else, before it is parsed into memory."""
    return _STRING.sub(b"", data, count + 1) == b"[" + b"," * (count - 1) + b"]"
