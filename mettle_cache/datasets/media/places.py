"""Where a published layout keeps the media of an id, and which place serves which id.

What is in a file decides how it is read, so its ending need not be the published one: downloaders and cameras write
videos and recordings in other containers, and in capitals.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.protocol import Clip
from mettle_cache.errors import DatasetError

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".flv", ".f4v"),
    *(".mpg", ".mpeg", ".vob", ".3gp", ".3g2", ".wmv", ".asf", ".ogv"),
)
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
TRACKS = (".m4a", ".m4b", ".mka", ".weba", ".aac", ".wma")
"""Endings of sound that lies in a container as that of videos does."""

_ENDINGS = {".mp4": VIDEOS, ".wav": (*SOUNDS, *TRACKS)}
_LISTED = 3


@dataclass(frozen=True)
class Place:
    """``<folder>/<id><suffix>`` under the root, or ``<id><suffix>`` there; without a suffix a folder of pictures.

    ``.mp4`` stands for every ending of a video and ``.wav`` for every one of a recording, in capitals too. Of several
    files of one id the one with the published ending serves, else the first in the order of these endings.
    """

    folder: str
    suffix: str = ""

    @property
    def pattern(self) -> str:
        """For example ``wave/{id}.npy``."""
        return f"{self.folder}{'/' if self.folder else ''}{{id}}{self.suffix or '/*.jpg'}"

    def path(self, root: Path, clip: str) -> Path:
        """Where the published layout has it."""
        return root / self.folder / f"{clip}{self.suffix}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its pattern, and that of sound in containers, which another library reads, where there may be any."""
        return (self.pattern, Place(self.folder, TRACKS[0]).pattern) if self.suffix == ".wav" else (self.pattern,)

    def pattern_of(self, name: str) -> str:
        """Which of its patterns a file that was found here has."""
        return self.patterns[-1 if reader_ending(Path(name)) == TRACKS[0] else 0]


@dataclass(frozen=True)
class Layout:
    """The places that can hold frames and audio, preferred first."""

    frames: tuple[Place, ...]
    audio: tuple[Place, ...]


@dataclass(frozen=True)
class LocatedMedia:
    """Clips with their paths, the patterns of the places that hold at least one of them, and what to tell the user."""

    clips: tuple[Clip, ...]
    patterns: dict[str, list[str]]
    notes: tuple[str, ...] = ()


def locate_media(root: Path, ids: Sequence[str], layout: Layout) -> LocatedMedia:
    """Give each id, for each modality by itself, the first place that has it.

    An id that no place has is given the place that holds most of the others, where its files are evidently expected.
    One listing of each folder serves all ids.

    Raises
    ------
    DatasetError
        A folder of the layout cannot be listed.
    """
    folders = {place.folder: _Listing(root / place.folder) for place in (*layout.frames, *layout.audio)}
    frames = _assign(root, ids, layout.frames, folders)
    audio = _assign(root, ids, layout.audio, folders)
    clips = tuple(Clip(clip, seen, heard) for clip, seen, heard in zip(ids, frames.paths, audio.paths, strict=True))
    several = dict.fromkeys((*frames.several, *audio.several))
    return LocatedMedia(clips, {"frames": frames.patterns, "audio": audio.patterns}, tuple(_notes(several)))


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """Each path of a recording as it is published, or the file of another ending that is there in its stead.

    Raises
    ------
    DatasetError
        A folder cannot be listed.
    """
    folders = {folder: _Listing(folder) for folder in {path.parent for path in paths}}
    found = (folders[path.parent].find(path.stem, path.suffix) for path in paths)
    return [path.with_name(names[0]) if names else path for path, names in zip(paths, found, strict=True)]


def reader_ending(path: Path) -> str:
    """The ending that stands for all sound files, for all sound in containers, or that of ``path`` itself."""
    ending = path.suffix.lower()
    return next((endings[0] for endings in (SOUNDS, TRACKS) if ending in endings), ending)


class _Listing:
    """The names in a folder, none where there is no such folder."""

    def __init__(self, folder: Path) -> None:
        self._names = _list_names(folder)
        self._by_stem: dict[str, list[str]] = {}
        for name in sorted(self._names):
            self._by_stem.setdefault(os.path.splitext(name)[0], []).append(name)

    def find(self, clip: str, suffix: str) -> list[str]:
        """The names that serve for ``<clip><suffix>``, preferred first."""
        if not suffix:
            return [clip] if clip in self._names else []
        endings = _ENDINGS.get(suffix, (suffix,))
        names = {name: os.path.splitext(name)[1].lower() for name in self._by_stem.get(clip, ())}
        known = [name for name, ending in names.items() if ending in endings]
        return sorted(known, key=lambda name: (endings.index(names[name]), name != clip + names[name]))


@dataclass(frozen=True)
class _Assignment:
    """``several`` are the names of each id that more than one file of one place serves, the one that is read first."""

    paths: list[Path]
    patterns: list[str]
    several: list[tuple[str, ...]]


def _assign(root: Path, ids: Sequence[str], places: Sequence[Place], folders: Mapping[str, _Listing]) -> _Assignment:
    holding = [_first_holding(clip, places, folders) for clip in ids]
    counts = {place: sum(held is not None and held[0] == place for held in holding) for place in places}
    # max keeps the first of equals, so an empty root expects the preferred layout
    expected = max(places, key=lambda place: counts[place])
    in_use = {place.pattern_of(names[0]) for place, names in filter(None, holding)}
    patterns = dict.fromkeys(pattern for place in places for pattern in place.patterns)
    return _Assignment(
        paths=[
            root / held[0].folder / held[1][0] if held else expected.path(root, clip)
            for clip, held in zip(ids, holding, strict=True)
        ],
        patterns=[pattern for pattern in patterns if pattern in in_use],
        several=[tuple(held[1]) for held in holding if held and len(held[1]) > 1],
    )


def _first_holding(
    clip: str, places: Iterable[Place], folders: Mapping[str, _Listing]
) -> tuple[Place, list[str]] | None:
    found = ((place, folders[place.folder].find(clip, place.suffix)) for place in places)
    return next(((place, names) for place, names in found if names), None)


def _notes(several: Iterable[tuple[str, ...]]) -> Iterator[str]:
    listed = [f"{names[0]} beside {', '.join(names[1:])}" for names in several]
    if listed:
        yield (
            f"clips with several files of one kind: {len(listed)}, such as {'; '.join(listed[:_LISTED])}: "
            "the first is read, the others are not"
        )


def _list_names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
    except NotADirectoryError:
        raise DatasetError(f"{folder} is a file where a folder of media should be") from None
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}") from error
