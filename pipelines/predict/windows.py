"""A video of any length as windows of a clip's length, a few seconds of it in memory at a time.

Shapes: T seconds of a clip, S whole seconds of a video, W windows.

A file that is less than a second longer than a clip is one clip, and read by the data set's own code; so is every file
where clips last longer than their segments, which are spread over them. Of a longer one windows begin every T seconds,
and the last one ends with the last whole second; what a window before it has answered stays answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media import decode, pictures, pixels, video, waveform
from mettle_cache.datasets.media.container import SLACK, measure
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.soundtrack import stream_video_audio
from mettle_cache.datasets.protocol import Clip, MediaProblem, PictureRule
from mettle_cache.pipelines.predict.media import MediaItem, refuse_missing
from mettle_cache.preprocessing import Recording

if TYPE_CHECKING:
    import pyarrow as pa

Pictures = list[NDArray[np.uint8]]
_BLACK = np.zeros((64, 64, 3), np.uint8)


@dataclass(frozen=True)
class ClipForm:
    """What a clip is to the head: ``seconds`` T of media, each of ``segments`` one clip of a store.

    ``segments`` is T, or 1 where a store holds seconds by themselves.
    """

    seconds: int
    segments: int
    rule: PictureRule


@dataclass(frozen=True, kw_only=True)
class Window:
    """T seconds from ``start``, of which those from ``fresh`` on (counted from ``start``) no other one answers.

    ``pictures`` gives T of them, ``hear`` the sound at a rate, ``recording`` as a sound file has it.
    """

    start: int
    fresh: int
    pictures: Callable[[], Pictures]
    hear: Callable[[int], NDArray[np.float32]]
    recording: Callable[[int], Recording]


@dataclass(frozen=True)
class MediaPlan:
    """An item that was looked at: ``seconds`` are those that are there, ``starts`` where its windows begin.

    ``total`` are the whole seconds that are answered. ``whole``: it is one clip. ``filled`` is what lacks and is filled
    in: silence, or black pictures.
    """

    item: MediaItem
    seconds: float
    starts: tuple[int, ...]
    total: int
    whole: bool
    filled: str = ""


def plan_windows(item: MediaItem, form: ClipForm, *, one_clip: bool = False, fill: bool = False) -> MediaPlan:
    """Where the windows of an item begin; reads headers, and a sound file.

    Raises
    ------
    MediaFileError
        Something is missing or cannot be read, or there is no sound or no picture and ``fill`` is not set.
    """
    refuse_missing(item)
    seconds, filled = _measure(item, fill)
    # arrays of sound beside pictures are of a clip's length by definition
    seconds = seconds or float(form.seconds)
    total = max(1, int(seconds + 0.5))
    if one_clip or form.rule.longer or seconds < form.seconds + SLACK:
        return MediaPlan(item, seconds, (0,), min(total, form.seconds), True, filled)
    starts = [*range(0, total - form.seconds + 1, form.seconds)]
    starts += [total - form.seconds] if starts[-1] + form.seconds < total else []
    return MediaPlan(item, seconds, tuple(starts), total, False, filled)


def open_windows(plan: MediaPlan, form: ClipForm) -> Iterator[Window]:
    """The windows of an item, in order; what a window holds is good until the next one is taken.

    Raises
    ------
    MediaFileError
        Whatever is wrong with the media, when it shows.
    """
    if plan.whole:
        yield _whole_window(plan, form)
        return
    length = form.seconds
    seconds = zip(_pictures(plan, form, plan.total), _sounds(plan, plan.total), strict=True)
    held: deque[tuple[NDArray[np.uint8], Sound]] = deque(maxlen=length)
    read = answered = 0
    for start in plan.starts:
        while read < start + length:
            held.append(next(seconds))
            read += 1
        yield _window(plan, start, answered - start, list(held))
        answered = start + length


def _measure(item: MediaItem, fill: bool) -> tuple[float, str]:
    """Seconds of an item, and what lacks."""
    ends, lacking = [], []
    for kind, path in (("video", item.frames), ("audio", item.sound)):
        try:
            if path is None:
                raise MediaFileError(item.path, f"has no {'pictures' if kind == 'video' else 'sound'}")
            ends.append(_measure_pictures(path) if kind == "video" else _measure_sound(path))
        except MediaFileError as error:
            none = path is None or error.what == f"has no {kind} stream"
            if not none:
                raise
            if not fill:
                hint = "the head wants both; --fill-missing gives it silence, or black pictures, in their place"
                raise MediaFileError(error.path, error.what, hint=hint) from error
            lacking.append("silence" if kind == "audio" else "black pictures")
    if not ends:
        raise MediaFileError(item.path, "has neither pictures nor sound")
    return max(ends), " and ".join(lacking)


def _measure_pictures(path: Path) -> float:
    """0 for a folder of pictures: how long they last, their sound tells."""
    return 0.0 if path.is_dir() else measure(path, "video")


def _measure_sound(path: Path) -> float:
    if path.suffix.lower() == ".npy":
        return 0.0  # of a clip's length by definition
    if decode.holds_track(path):
        return measure(path, "audio")
    samples, rate = waveform.read_sound_file(path)
    return len(samples) / rate


def _whole_window(plan: MediaPlan, form: ClipForm) -> Window:
    """The item as a clip of the data set: its own code reads it."""
    item = plan.item
    clip = Clip(item.name, item.frames or item.path, item.sound or item.path)
    black, silent = [_BLACK] * form.seconds, "silence" in plan.filled

    @cache
    def load_pictures() -> Pictures:
        if "black" in plan.filled:
            return black
        if clip.frames.is_file() and not decode.is_video(clip.frames):
            return decode.load_video(clip.frames, form.seconds, form.rule)  # a container, whatever it is called
        return decode.load_frames(clip, form.seconds, form.rule)

    @cache
    def hear(rate: int) -> NDArray[np.float32]:
        if silent:
            return np.zeros(form.seconds * rate, np.float32)
        return decode.load_waveform(clip, form.seconds, rate)

    def recording(rate: int) -> Recording:
        return Recording(hear(rate), rate) if silent else decode.load_recording(clip, form.seconds, rate)

    return Window(start=0, fresh=0, pictures=load_pictures, hear=hear, recording=recording)


@dataclass(frozen=True)
class Sound:
    """A second of sound: the mean of the channels, and the first one where a file is heard as it is."""

    mixed: NDArray[np.float32]
    first: NDArray[np.float32] | None
    rate: int


def _window(plan: MediaPlan, start: int, fresh: int, seconds: list[tuple[NDArray[np.uint8], Sound]]) -> Window:
    path = plan.item.sound or plan.item.path
    rate = seconds[0][1].rate
    mixed = np.concatenate([sound.mixed for _, sound in seconds])
    firsts = [sound.first for _, sound in seconds]
    first = None if firsts[0] is None else np.concatenate([part for part in firsts if part is not None])

    def hear(target: int) -> NDArray[np.float32]:
        return waveform.bring_to(path, mixed, rate, target)

    def recording(target: int) -> Recording:
        return Recording(hear(target), target) if first is None else Recording(first, rate)

    pictures = [picture for picture, _ in seconds]
    return Window(start=start, fresh=fresh, pictures=lambda: pictures, hear=hear, recording=recording)


def _pictures(plan: MediaPlan, form: ClipForm, total: int) -> Iterator[NDArray[np.uint8]]:
    """One a second: of a video what is shown in its middle, of a folder by the data set's rule over all seconds."""
    frames = plan.item.frames
    if frames is None or "black" in plan.filled:
        return repeat(_BLACK, total)
    if frames.is_dir():
        return map(pixels.load_picture, pictures.segment_pictures(frames, total, form.rule))
    return video.stream_video_frames(frames, [second + 0.5 for second in range(total)])


def _sounds(plan: MediaPlan, total: int) -> Iterator[Sound]:
    """One a second, each of a whole second: silence follows where the sound ends."""
    path = plan.item.sound
    if path is None or "silence" in plan.filled:
        yield from repeat(Sound(np.zeros(16_000, np.float32), None, 16_000), total)
    elif decode.holds_track(path):
        track = stream_video_audio(path)
        first, rate = next(track)
        silence = np.zeros(0, np.float32)
        parts = chain([first], (samples for samples, _ in track), repeat(silence))
        for _, samples in zip(range(total), parts, strict=False):
            yield Sound(np.pad(samples, (0, rate - len(samples))), None, rate)
    else:
        yield from _sound_file(path, total)


def _sound_file(path: Path, total: int) -> Iterator[Sound]:
    mixed, rate = waveform.read_sound_file(path)
    first, _ = waveform.read_sound_file(path, waveform.first_channel)
    waveform.require_level(path, waveform.require_finite(path, mixed))
    missing = max(0, total * rate - len(mixed))
    mixed, first = np.pad(mixed, (0, missing)), np.pad(first, (0, missing))
    for start in range(0, total * rate, rate):
        yield Sound(mixed[start : start + rate], first[start : start + rate], rate)


@dataclass(frozen=True, eq=False)
class WindowDataset:
    """A window as a data set of its own clips, so that the extractor reads it as it reads a store's."""

    name: str
    path: Path
    form: ClipForm
    window: Window | None = None
    vocabulary: dict[str, list[str]] = field(default_factory=dict)
    decode_policy: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return self.path.parent

    @property
    def samples(self) -> pa.Table:
        import pyarrow as pa

        return pa.table({})

    @property
    def segments(self) -> int:
        return self.form.segments

    @property
    def media_segments(self) -> int:
        return self.form.seconds

    @property
    def clips(self) -> tuple[Clip, ...]:
        """One, or one a second."""
        count = self.form.seconds // self.form.segments
        return tuple(
            Clip(f"{self.path.name}-{number}", self.path, self.path, None if count == 1 else number)
            for number in range(count)
        )

    def problems(self, *, deep: bool = False) -> list[MediaProblem]:
        return []

    def load_frames(self, clip: Clip) -> Pictures:
        pictures = self._media.pictures()
        return pictures if clip.segment is None else [pictures[clip.segment]]

    def load_waveform(self, clip: Clip, sample_rate: int) -> NDArray[np.float32]:
        return self._media.hear(sample_rate)

    def load_recording(self, clip: Clip, sample_rate: int) -> Recording:
        return self._media.recording(sample_rate)

    def preferring_sound_files(self) -> WindowDataset:
        return self

    def source_files(self, clip: Clip) -> tuple[Path, ...]:
        return (self.path,)

    def source_digest(self, clip: Clip) -> str:
        return ""

    @property
    def _media(self) -> Window:
        if self.window is None:
            raise MediaFileError(self.path, "no window of it is open")
        return self.window
