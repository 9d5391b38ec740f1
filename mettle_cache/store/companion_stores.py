"""Companions that are stores themselves: grids that were pooled from a store's tokens and lie in its ``companions/``.

They are no part of what the store's ``READY`` vouches for, and may be taken away at any time (FORMAT.md, section 11).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.store.format.files import COMPANIONS
from mettle_cache.store.format.metadata import load_metadata, read_ready

POOLED = "pooled"
"""The field of the key, within the part of the extraction, that says what a companion was pooled from and how."""
State = Literal["finished", "unfinished", "outdated", "damaged", "other"]


@dataclass(frozen=True, kw_only=True)
class Companion:
    """What lies in the folder of companions under one name.

    ``outdated`` ones were made of other tokens than the store's now; ``other`` is all that is no store.
    """

    name: str
    nbytes: int
    state: State

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def pooled_from(extraction: Mapping[str, Any]) -> tuple[object, object]:
    """The key digest and the content digest of the store that a companion was made of; None each for other stores.

    ``extraction`` is that part of the key.
    """
    origin = extraction.get(POOLED)
    return (origin.get("store"), origin.get("content")) if isinstance(origin, dict) else (None, None)


def list_companions(path: Path, key_digest: str, content: str | None) -> list[Companion]:
    """Everything in the folder of companions of the store at ``path``, by name.

    ``content`` is the digest of the store's tokens; None where that is not known, as of an unfinished store: then every
    companion of this key may be its.
    """
    return [
        Companion(name=entry.name, nbytes=_bytes_in(entry), state=_state_of(entry, key_digest, content))
        for entry in _entries(path)
    ]


def companions_to_check(path: Path, key_digest: str, content: str | None) -> Iterator[Path]:
    """The companions that are stores made of these tokens, finished or not, damaged or not."""
    for entry in _entries(path):
        if _state_of(entry, key_digest, content) in ("finished", "unfinished", "damaged"):
            yield entry


def _entries(path: Path) -> list[Path]:
    folder = path / COMPANIONS
    if folder.is_symlink() or not folder.is_dir():
        return []
    # what begins with a dot is the lock, or on its way out
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _state_of(entry: Path, key_digest: str, content: str | None) -> State:
    if entry.is_symlink() or not entry.is_dir() or not entry.name.startswith(f"{POOLED}-"):
        return "other"
    try:
        metadata = load_metadata(entry)
        store, tokens = pooled_from(metadata.record.key.extraction)
        if store != key_digest or content not in (None, tokens):
            return "outdated"
        return "unfinished" if read_ready(metadata) is None else "finished"
    except StoreCorruptError:
        return "damaged"
    except MettleError:
        # its making was stopped as it began
        return "unfinished"


def _bytes_in(entry: Path) -> int:
    """Bytes of a file, or of all files in a folder; those that go meanwhile do not count."""
    files = [entry] if not entry.is_dir() else (Path(top) / name for top, _, names in os.walk(entry) for name in names)
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size
    return total
