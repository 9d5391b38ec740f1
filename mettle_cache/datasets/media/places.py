"""Where a published layout keeps the media of an id, and which place serves which id."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.protocol import Clip
from mettle_cache.errors import DatasetError


@dataclass(frozen=True)
class Place:
    """``<folder>/<id><suffix>`` under the root, or ``<id><suffix>`` there; without a suffix a folder of pictures."""

    folder: str
    suffix: str = ""

    @property
    def pattern(self) -> str:
        """For example ``wave/{id}.npy``."""
        return f"{self.folder}{'/' if self.folder else ''}{{id}}{self.suffix or '/*.jpg'}"

    def path(self, root: Path, clip: str) -> Path:
        return root / self.folder / f"{clip}{self.suffix}"


@dataclass(frozen=True)
class Layout:
    """The places that can hold frames and audio, preferred first."""

    frames: tuple[Place, ...]
    audio: tuple[Place, ...]


@dataclass(frozen=True)
class PictureRule:
    """Which pictures of a clip's folder stand for its segments (:mod:`mettle_cache.datasets.media.pictures`).

    Pictures are spread evenly over the segments. A layout with a ``rate`` counts them by the second instead: one a
    second, or ``rate`` of them. ``longer``: clips last longer than their segments, so that any number of pictures is
    to be expected.
    """

    rate: int | None = None
    longer: bool = False


SPREAD = PictureRule()


@dataclass(frozen=True)
class LocatedMedia:
    """Clips with their paths, and the patterns of the places that hold at least one of them."""

    clips: tuple[Clip, ...]
    patterns: dict[str, list[str]]


def locate_media(root: Path, ids: Sequence[str], layout: Layout) -> LocatedMedia:
    """Give each id, for each modality by itself, the first place that has it.

    An id that no place has is given the place that holds most of the others, where its files are evidently expected.
    One listing of each folder serves all ids.

    Raises
    ------
    DatasetError
        A folder of the layout cannot be listed.
    """
    listings = {place.folder: _listing(root / place.folder) for place in (*layout.frames, *layout.audio)}
    frames = _assign(ids, layout.frames, listings)
    audio = _assign(ids, layout.audio, listings)
    clips = tuple(
        Clip(clip, seen.path(root, clip), heard.path(root, clip))
        for clip, seen, heard in zip(ids, frames.places, audio.places, strict=True)
    )
    return LocatedMedia(clips, {"frames": frames.patterns, "audio": audio.patterns})


@dataclass(frozen=True)
class _Assignment:
    places: list[Place]
    patterns: list[str]


def _assign(ids: Sequence[str], places: Sequence[Place], listings: dict[str, frozenset[str]]) -> _Assignment:
    holding = [_first_holding(clip, places, listings) for clip in ids]
    counts = {place: holding.count(place) for place in places}
    # max keeps the first of equals, so an empty root expects the preferred layout
    expected = max(places, key=lambda place: counts[place])
    used = [place.pattern for place in places if counts[place]]
    return _Assignment([place or expected for place in holding], used)


def _first_holding(clip: str, places: Iterable[Place], listings: dict[str, frozenset[str]]) -> Place | None:
    return next((place for place in places if clip + place.suffix in listings[place.folder]), None)


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
    except NotADirectoryError:
        raise DatasetError(f"{folder} is a file where a folder of media should be") from None
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}") from error
