"""AVSBench's files behind the data set protocol: one clip a frame, masks in the samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mettle_cache.datasets.avsbench_masks import Mask, read_mask
from mettle_cache.datasets.boundary import clip_errors
from mettle_cache.datasets.media import decode, pixels, video, waveform
from mettle_cache.datasets.media.allowance import Allowance, allowed
from mettle_cache.datasets.media.arrays import NPY_RATE
from mettle_cache.datasets.media.budget import for_each_clip
from mettle_cache.datasets.media.decode import add_file
from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.datasets.media.pictures import header_remarks
from mettle_cache.datasets.media.places import TRACKS, reader_ending
from mettle_cache.datasets.media.remarks import Remark, summarise
from mettle_cache.datasets.media.wavedict import WAVE_DICT_SUFFIX, WaveFiles
from mettle_cache.datasets.protocol import Clip, MediaProblem
from mettle_cache.preprocessing import Recording

_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """One frame: ``place`` is its video's place among the samples, ``where`` the line of the table.

    ``mask`` is None for a frame that has none. ``clip.audio`` holds all of the video's seconds: the sound file
    ``recording``, or a file of many videos' sound, in which it is ``key``.
    """

    clip: Clip
    place: int
    key: str
    recording: Path
    mask: Path | None
    where: str


@dataclass(frozen=True, kw_only=True)
class AvsbenchDataset:
    """A :class:`~mettle_cache.datasets.protocol.Dataset`; masks are read when the samples are first asked for.

    ``rows`` are the columns of the samples that the table gives, ``pattern`` is where frames lie.
    """

    name: str
    root: Path
    schema: pa.Schema
    rows: Mapping[str, list[object]]
    sources: tuple[FrameSource, ...]
    media_segments: int
    pattern: str
    segments: int = 1
    _waves: WaveFiles = field(default_factory=WaveFiles, compare=False)
    _remarks: dict[str, list[Remark]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def clips(self) -> tuple[Clip, ...]:
        """One a stored frame, video by video."""
        return tuple(self._source_of)

    @cached_property
    def samples(self) -> pa.Table:
        """One a video; see ``SAMPLE_SCHEMA`` of :mod:`mettle_cache.datasets.avsbench`."""
        clips: list[list[str]] = [[] for _ in self.rows["row"]]
        masks: list[list[bytes]] = [[] for _ in self.rows["row"]]
        for source in self.sources:
            clips[source.place].append(source.clip.id)
            if source.mask is not None:
                mask = self._masks[source.mask]
                masks[source.place].append(mask.bits if isinstance(mask, Mask) else b"")
        return pa.table({**self.rows, "clips": clips, "masks": masks}, schema=self.schema)

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        """Empty: where it sounds is asked for, not what."""
        return {}

    @cached_property
    def decode_policy(self) -> dict[str, object]:
        """Everything about decoding that changes bytes, as JSON."""
        suffixes = {reader_ending(source.clip.audio) for source in self.sources}
        policy: dict[str, object] = {
            "segments": f"each of {self.media_segments} is a clip",
            "frames": self.pattern,
            "pixels": pixels.POLICY,
            "sound": sorted(suffixes),
            "recording": waveform.POLICY,
            "masks": "not black",
        }
        if suffixes - {WAVE_DICT_SUFFIX}:
            policy["wav"] = {"versions": waveform.decoder_versions()}
        if TRACKS[0] in suffixes:
            policy["track"] = {"audio": video.POLICY["audio"], "versions": video.decoder_versions()}
        return policy

    @property
    def notes(self) -> tuple[str, ...]:
        """Says which masks have grey levels, whose edges are then a choice, and what ``problems()`` saw of pictures."""
        return (*self._mask_notes(), *summarise(dict(self._remarks), len(self.sources)))

    def _mask_notes(self) -> tuple[str, ...]:
        grey = [path.name for path, mask in self._masks.items() if isinstance(mask, Mask) and mask.levels > 2]
        if not grey:
            return ()
        listed = f"{', '.join(grey[:_LISTED])}{', ...' if len(grey) > _LISTED else ''}"
        return (f"{len(grey)} masks have more than two grey levels ({listed}): all that is not black is foreground",)

    def problems(self, *, deep: bool = False) -> list[MediaProblem]:
        """Every missing or unusable file, in clip order; ``deep`` also reads the headers of pictures and recordings.

        Masks and files of many videos' sound are always read.
        """
        by_source = for_each_clip(lambda source: list(self._problems_of(source, deep=deep)), self.sources)
        return [problem for problems in by_source for problem in problems]

    def load_frames(self, clip: Clip) -> list[NDArray[np.uint8]]:
        """The clip's one picture, RGB ``[H, W, 3]``. Raises MediaFileError."""
        return [pixels.load_picture(clip.frames)]

    def load_waveform(self, clip: Clip, sample_rate: int) -> NDArray[np.float32]:
        """All of the video's seconds, mono ``[n]`` at ``sample_rate`` Hz, of which the clip is one.

        Raises MediaFileError.
        """
        with allowed(Allowance()):
            samples, rate = self._recording(clip)
            return waveform.bring_to(clip.audio, samples, rate, sample_rate)

    def load_recording(self, clip: Clip, sample_rate: int) -> Recording:
        """The first channel of a sound file at its own rate, else :meth:`load_waveform`. Raises MediaFileError."""
        if clip.audio.suffix == WAVE_DICT_SUFFIX or decode.holds_track(clip.audio):
            return Recording(self.load_waveform(clip, sample_rate), sample_rate)
        return decode.read_first_channel(clip.audio)

    def preferring_sound_files(self) -> AvsbenchDataset:
        """The same, but with each video's own sound file wherever there is one."""
        there = {path for path in {source.recording for source in self.sources} if path.exists()}
        sources = [
            replace(source, clip=replace(source.clip, audio=source.recording)) if source.recording in there else source
            for source in self.sources
        ]
        return replace(self, sources=tuple(sources), _remarks={})

    def source_files(self, clip: Clip) -> tuple[Path, ...]:
        """The picture, and the recording or the file of many videos' sound that holds it."""
        return clip.frames, clip.audio

    def source_digest(self, clip: Clip) -> str:
        """BLAKE2b of the picture and of the recording, 32 hex characters. Raises MediaFileError."""
        digest = hashlib.blake2b(digest_size=16)
        add_file(digest, clip.frames)
        if clip.audio.suffix == WAVE_DICT_SUFFIX:
            content = self._recording(clip)[0].tobytes()
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        else:
            add_file(digest, clip.audio)
        return digest.hexdigest()

    @cached_property
    def _source_of(self) -> dict[Clip, FrameSource]:
        return {source.clip: source for source in self.sources}

    @cached_property
    def _masks(self) -> dict[Path, Mask | MediaFileError]:
        paths = [source.mask for source in self.sources if source.mask is not None]
        return dict(zip(paths, for_each_clip(self._try_mask, paths), strict=True))

    def _try_mask(self, path: Path) -> Mask | MediaFileError:
        try:
            with clip_errors(path, self.root):
                return read_mask(path)
        except MediaFileError as error:
            return error

    def _recording(self, clip: Clip) -> tuple[NDArray[np.float32], int]:
        if clip.audio.suffix != WAVE_DICT_SUFFIX:
            return decode.read_recording(clip.audio)
        return self._waves.open(clip.audio).read(self._source_of[clip].key, self.media_segments), NPY_RATE

    def _problems_of(self, source: FrameSource, *, deep: bool) -> Iterator[MediaProblem]:
        clip = source.clip
        checks: tuple[tuple[Path, Callable[[FrameSource], None]], ...] = (
            (clip.frames, partial(self._check_frame, deep=deep)),
            (source.mask or clip.frames, self._check_mask),
            (clip.audio, partial(self._check_sound, deep=deep)),
        )
        for path, check in checks:
            try:
                with clip_errors(path, self.root):
                    check(source)
            except MediaFileError as error:
                yield MediaProblem(source.clip.id, error.path, f"{error.what} ({source.where})")

    def _check_frame(self, source: FrameSource, *, deep: bool) -> None:
        require_file(source.clip.frames)
        if deep:
            self._remarks[source.clip.id] = list(header_remarks([pixels.check_picture(source.clip.frames)]))

    def _check_mask(self, source: FrameSource) -> None:
        if source.mask is not None and isinstance(mask := self._masks[source.mask], MediaFileError):
            raise MediaFileError(mask.path, mask.what)

    def _check_sound(self, source: FrameSource, *, deep: bool) -> None:
        path = source.clip.audio
        if path.suffix == WAVE_DICT_SUFFIX:
            self._waves.open(path).check(source.key, self.media_segments)
        elif deep:
            decode.check_recording(path)
        else:
            require_file(path)
