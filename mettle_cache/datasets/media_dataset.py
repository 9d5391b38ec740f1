"""The part that all data sets share: samples from an annotation parser, media from a layout.

The decoders and their libraries load when media are first looked at, so that listing data sets loads none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.datasets.boundary import clip_errors
from mettle_cache.datasets.media.budget import for_each_clip
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.places import Layout, locate_media
from mettle_cache.datasets.media.remarks import Remark, summarise
from mettle_cache.datasets.protocol import SPREAD, Clip, MediaProblem, PictureRule
from mettle_cache.preprocessing import Recording


@dataclass(frozen=True, kw_only=True)
class MediaDataset:
    """A :class:`~mettle_cache.datasets.protocol.Dataset` whose clips are files; immutable, so threads can share it."""

    name: str
    root: Path
    segments: int
    clips: tuple[Clip, ...]
    samples: pa.Table
    vocabulary: dict[str, list[str]]
    decode_policy: dict[str, object]
    layout: Layout
    annotation_notes: tuple[str, ...] = ()
    picture_rule: PictureRule = SPREAD
    _remarks: dict[str, list[Remark]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the annotations say, and what the media showed when ``problems()`` last looked, or a short look now."""
        if not self._remarks:
            self.problems()
        return (*self.annotation_notes, *summarise(dict(self._remarks), len(self.clips)))

    @property
    def media_segments(self) -> int:
        """T: a clip is all of its media."""
        return self.segments

    def __repr__(self) -> str:
        """Where it is and how much is in it, not thousands of clips."""
        return (
            f"<{type(self).__name__} {self.name} in {self.root}: {len(self.clips)} clips of {self.media_segments} "
            f"segments, {len(self.samples)} samples>"
        )

    def problems(self, *, deep: bool = False) -> list[MediaProblem]:
        """Every missing, empty or misplaced file, in clip order; ``deep`` also opens each file and reads its header."""
        look = partial(_look_at_clip, root=self.root, segments=self.segments, rule=self.picture_rule, deep=deep)
        seen = for_each_clip(look, self.clips) if deep else [look(clip) for clip in self.clips]
        self._remarks.update({clip.id: remarks for clip, (_, remarks) in zip(self.clips, seen, strict=True)})
        return [problem for problems, _ in seen for problem in problems]

    def load_frames(self, clip: Clip) -> list[NDArray[np.uint8]]:
        """T RGB pictures ``[H, W, 3]``, one a segment. Raises MediaFileError."""
        from mettle_cache.datasets.media import decode

        return decode.load_frames(clip, self.segments, self.picture_rule)

    def load_waveform(self, clip: Clip, sample_rate: int) -> NDArray[np.float32]:
        """Mono samples ``[n]`` at ``sample_rate`` Hz, neither trimmed nor padded. Raises MediaFileError."""
        from mettle_cache.datasets.media import decode

        return decode.load_waveform(clip, self.segments, sample_rate)

    def source_files(self, clip: Clip) -> tuple[Path, ...]:
        """The files that decoding uses, each once; some may be missing. Raises MediaFileError."""
        from mettle_cache.datasets.media import decode

        return decode.source_files(clip, self.segments, self.picture_rule)

    def load_recording(self, clip: Clip, sample_rate: int) -> Recording:
        """The first channel of a .wav at its own rate, else :meth:`load_waveform`. Raises MediaFileError."""
        from mettle_cache.datasets.media import decode

        return decode.load_recording(clip, self.segments, sample_rate)

    def preferring_sound_files(self) -> MediaDataset:
        """The same, but with the places of .wav files before all others."""
        from mettle_cache.datasets.media import decode

        audio = sorted(self.layout.audio, key=lambda place: place.suffix != ".wav")
        layout = replace(self.layout, audio=tuple(audio))
        media = locate_media(self.root, [clip.id for clip in self.clips], layout)
        policy = decode.policy(self.segments, media.patterns, self.picture_rule)
        return replace(self, clips=media.clips, layout=layout, decode_policy=policy, _remarks={})

    def source_digest(self, clip: Clip) -> str:
        """BLAKE2b of the content of the files that decoding uses, 32 hex characters. Raises MediaFileError."""
        from mettle_cache.datasets.media import decode

        return decode.source_digest(clip, self.segments, self.picture_rule)


def media_dataset(
    *,
    name: str,
    root: Path,
    segments: int,
    samples: pa.Table,
    vocabulary: dict[str, list[str]],
    layout: Layout,
    notes: tuple[str, ...] = (),
    picture_rule: PictureRule = SPREAD,
) -> MediaDataset:
    """Find the media of every id in ``samples`` (first columns: ``SAMPLE_COLUMNS``) in the places of ``layout``.

    Raises
    ------
    DatasetError
        A media folder that cannot be listed. Media that are missing are no error here: ``problems()`` lists them.
    """
    from mettle_cache.datasets.media import decode

    ids = list(dict.fromkeys(samples["clip"].to_pylist()))
    media = locate_media(root, ids, layout)
    return MediaDataset(
        name=name,
        root=root,
        segments=segments,
        clips=media.clips,
        samples=samples,
        vocabulary=vocabulary,
        decode_policy=decode.policy(segments, media.patterns, picture_rule),
        annotation_notes=(*notes, *media.notes),
        picture_rule=picture_rule,
        layout=layout,
    )


def _look_at_clip(
    clip: Clip, *, root: Path, segments: int, rule: PictureRule, deep: bool
) -> tuple[list[MediaProblem], list[Remark]]:
    """What keeps a clip from being decoded, and what is to be said of it though it does not."""
    from mettle_cache.datasets.media import decode

    checks: list[tuple[Path, Callable[..., list[Remark]]]] = [(clip.frames, partial(decode.check_frames, rule=rule))]
    # one video file that is missing is one problem, unless its streams are looked at one by one
    if deep or clip.audio != clip.frames:
        checks.append((clip.audio, decode.check_audio))
    problems: list[MediaProblem] = []
    remarks: list[Remark] = []
    for path, check in checks:
        try:
            with clip_errors(path, root):
                remarks += check(clip, segments, deep=deep)
        except MediaFileError as error:
            problem = MediaProblem(clip.id, error.path, error.what)
            if problem not in problems:
                problems.append(problem)
    return problems, remarks
