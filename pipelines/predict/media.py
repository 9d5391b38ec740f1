"""What a user names to be answered: videos, folders of pictures with their sound, and folders of these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.pictures import SUFFIXES as PICTURES
from mettle_cache.datasets.media.places import SOUNDS, TRACKS, VIDEOS
from mettle_cache.errors import UsageError
from mettle_cache.paths import is_utf8, local_path
from mettle_cache.pipelines.train.spec import folder_name

# the table of all events has its place among the results
EVENTS_NAME = "events"
_SOUND_ENDINGS = (".npy", *SOUNDS, *TRACKS)


@dataclass(frozen=True)
class MediaItem:
    """One thing to answer about.

    ``name`` is that of its files among the results. ``frames`` is a video or a folder of numbered pictures, ``sound`` a
    recording or the same video; either is None where there is none.
    """

    name: str
    path: Path
    frames: Path | None
    sound: Path | None


def find_media(paths: Sequence[str | os.PathLike[str]], sound: Path | None = None) -> list[MediaItem]:
    """The items that these paths mean, each once, in the order in which they are named; those in a folder by name.

    ``sound`` is the recording of the one folder of pictures, or video, that is named.

    Raises
    ------
    UsageError
        A folder holds no media, or ``sound`` is given for several.
    """
    items: dict[Path, MediaItem] = {}
    for path in map(local_path, paths):
        for item in _look(path):
            items.setdefault(item.path.absolute(), item)
    found = list(items.values())
    if not found:
        raise UsageError("there is nothing to answer about", hint="name a video, or a folder of them")
    if sound is not None:
        if len(found) != 1:
            raise UsageError(f"--sound is for one video or folder of pictures, and {len(found)} are named")
        found = [MediaItem(found[0].name, found[0].path, found[0].frames, sound)]
    return _with_names(found)


def _look(path: Path) -> Iterator[MediaItem]:
    """What one path means. A file that is missing is an item too, so that the others are answered."""
    if not path.is_dir():
        yield _file_item(path)
        return
    try:
        entries = sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=_natural)
    except OSError as error:
        raise UsageError(f"{path}: the folder cannot be listed ({error.strerror})") from error
    if _holds_pictures(path):
        yield _picture_item(path)
        return
    folders = [entry for entry in entries if entry.is_dir() and _holds_pictures(entry)]
    items = [_file_item(entry) for entry in entries if entry.is_file() and entry.suffix.lower() in VIDEOS]
    items += [_picture_item(folder) for folder in folders]
    if not items:
        held = ", ".join(entry.name for entry in entries[:3]) or "nothing"
        raise UsageError(
            f"{path}: the folder holds no video and no folder of numbered pictures ({held})",
            hint="name a video, a folder of pictures beside its sound, or a folder of these",
        )
    yield from sorted(items, key=lambda item: _natural(item.path))


def _file_item(path: Path) -> MediaItem:
    """A video; a sound file is one without pictures."""
    ending = path.suffix.lower()
    return MediaItem(path.stem, path, None if ending in _SOUND_ENDINGS else path, path)


def _picture_item(folder: Path) -> MediaItem:
    """A folder of pictures; its sound lies beside it under the same name, or alone in it."""
    beside = [folder.with_name(f"{folder.name}{ending}") for ending in _SOUND_ENDINGS]
    inside = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _SOUND_ENDINGS)
    found = next((path for path in beside if path.is_file()), inside[0] if len(inside) == 1 else None)
    return MediaItem(folder.name, folder, folder, found)


def _holds_pictures(folder: Path) -> bool:
    return any(entry.suffix.lower() in PICTURES and not entry.name.startswith(".") for entry in folder.iterdir())


def _natural(path: Path) -> list[tuple[int, str]]:
    """Numbers in names by their size: clip2 before clip10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _with_names(items: Iterable[MediaItem]) -> list[MediaItem]:
    """Each with a name of its own that may be a file's."""
    taken = {EVENTS_NAME}
    named = []
    for item in items:
        plain = folder_name(item.name)
        name, number = plain, 1
        # file systems of other machines do not tell capitals apart
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        named.append(MediaItem(name, item.path, item.frames, item.sound))
    return named


def refuse_missing(item: MediaItem) -> None:
    """Raise MediaFileError for an item of which nothing is there, or whose name no table can hold."""
    if not is_utf8(str(item.path)):
        raise MediaFileError(item.path, "has a name that is not UTF-8", hint="rename it")
    if not item.path.exists():
        raise MediaFileError(item.path, "is missing")
