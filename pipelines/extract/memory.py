"""What this computer remembers of earlier extractions, outside of the stores, which tell nothing of time and place.

Which media a store's clips were read from: the root, and of each clip a stamp of its files with the digest of their
content, so that files that look the same need not be read again. And where weights lay, by the digest of the weights.

All of it may be lost, damaged or unwritable at any time: then media are compared by content, which takes longer and
says the same. The folder is ``$METTLE_MEMORY``, else ``mettle-cache/memory`` in the user's cache folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from mettle_cache.errors import MettleError, StoreCorruptError
from mettle_cache.paths import user_cache_folder
from mettle_cache.store.format.digests import digest
from mettle_cache.store.format.files import read_small
from mettle_cache.store.format.records import Sealed, Strict
from mettle_cache.store.writing.durable import make_folder, remove_files, write_file

FOLDER_VARIABLE = "METTLE_MEMORY"
NEWEST_KEPT = 100
MOST_WEIGHTS = 1000
SAVE_EVERY_SECONDS = 60.0
_LARGEST_FILE = 64 << 20


class RememberedClip(Strict):
    """``stamp`` is of the files' names, sizes and times; ``source`` is the digest of their content."""

    stamp: str
    source: str


class _Sources(Sealed):
    root: str
    clips: dict[str, RememberedClip]


class _Weights(Sealed):
    paths: dict[str, str]


class SourceMemory:
    """The media below one root, as they were when clips of a store with one key were read from them.

    What is new is written once a minute and by :meth:`close`.
    """

    def __init__(self, path: Path | None, root: str, clips: dict[str, RememberedClip]) -> None:
        self.root = root
        self._path = path
        self._clips = clips
        self._new: dict[str, RememberedClip] = {}
        self._saved = time.monotonic()

    @classmethod
    def open(cls, key_digest: str, root: Path) -> Self:
        """What is remembered of ``root``; nothing where there is no memory of it, or none that can be believed."""
        place = os.fsencode(root.resolve())
        folder = memory_folder()
        path = folder and folder / "sources" / f"{key_digest}-{digest(place)}.json"
        return cls(path, place.decode(errors="backslashreplace"), _read_sources(path).clips if path else {})

    @classmethod
    def others(cls, key_digest: str, root: Path) -> Iterator[SourceMemory]:
        """What is remembered of other roots, those used last first."""
        own = cls.open(key_digest, root)
        if own._path is not None:
            for path in _newest_first(own._path.parent, f"{key_digest}-*.json"):
                record = _read_sources(path)
                if path != own._path and record.clips:
                    yield cls(path, record.root, record.clips)

    def source_of(self, clip: str) -> str | None:
        """The digest of the clip's media when they were last read."""
        return self._clips[clip].source if clip in self._clips else None

    def recall(self, clip: str, stamp: str) -> str | None:
        """The digest of the clip's media, if their files still have the stamp that they had when they were read."""
        known = self._clips.get(clip)
        return known.source if known is not None and known.stamp == stamp else None

    def remember(self, clip: str, stamp: str, source: str) -> None:
        """Take note of the digest of a clip's media and of the stamp of their files."""
        self._clips[clip] = self._new[clip] = RememberedClip(stamp=stamp, source=source)
        if time.monotonic() - self._saved > SAVE_EVERY_SECONDS:
            self.close()

    def close(self) -> None:
        """Write what is new, beside what other processes have written meanwhile."""
        self._saved = time.monotonic()
        if self._path is None or not self._new:
            return
        # another part of the same store may be extracted at the same time
        clips = {**_read_sources(self._path).clips, **self._new}
        _write(self._path, _Sources(root=self.root, clips=clips))
        _keep_newest(self._path.parent)


def memory_folder() -> Path | None:
    """The folder of all that is remembered; None where the user has no folder for such things."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    user = user_cache_folder()
    return user / "memory" if user else None


def remember_weights(weights_digest: str, path: Path) -> None:
    """Take note of the file that weights with this digest were read from."""
    folder = memory_folder()
    place = str(path.resolve())
    if folder is None or not place.isprintable():
        return
    paths = _read_weights(folder)
    if paths.get(weights_digest) != place:
        kept = dict(list(paths.items())[: MOST_WEIGHTS - 1])
        _write(folder / "weights.json", _Weights(paths={**kept, weights_digest: place}))


def remembered_weights(weights_digest: str) -> Path | None:
    """The file that weights with this digest were last read from, if it is still there; its content may be another."""
    folder = memory_folder()
    place = None if folder is None else _read_weights(folder).get(weights_digest)
    return Path(place) if place is not None and os.path.isabs(place) and os.path.isfile(place) else None


def _read_sources(path: Path) -> _Sources:
    # whatever is wrong with it, the media themselves can be read instead
    with suppress(StoreCorruptError, ValueError):
        return _Sources.from_bytes(read_small(path, limit=_LARGEST_FILE, store=path))
    return _Sources(root="", clips={})


def _read_weights(folder: Path) -> dict[str, str]:
    path = folder / "weights.json"
    with suppress(StoreCorruptError, ValueError):
        return dict(_Weights.from_bytes(read_small(path, limit=_LARGEST_FILE, store=path)).paths)
    return {}


def _write(path: Path, record: Sealed) -> None:
    # a home that cannot be written, or a full disk, costs the memory and nothing else
    with suppress(MettleError):
        make_folder(path.parent)
        write_file(path, record.to_bytes())


def _keep_newest(folder: Path) -> None:
    with suppress(MettleError):
        remove_files(list(_newest_first(folder, "*"))[NEWEST_KEPT:])


def _newest_first(folder: Path, pattern: str) -> Iterator[Path]:
    written: list[tuple[int, Path]] = []
    # the folder may be another user's, or no path at all
    with suppress(OSError):
        for path in folder.glob(pattern):
            # another process may be removing it
            with suppress(OSError):
                written.append((path.stat().st_mtime_ns, path))
    yield from (path for _, path in sorted(written, reverse=True))
