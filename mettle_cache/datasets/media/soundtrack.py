"""The sound track of a video, every piece of it at the time that its time stamp says.

Packets get lost, and a recorder pauses: a track may lack pieces in its middle. Laid end to end, all that follows would
be heard too early. But time stamps also tremble, by the milliseconds to which they are rounded for one, and a hole of a
few samples is a click.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.container import Reach, best_stream, opened, origin, refuse_early_end
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.waveform import MAX_SAMPLES, mix_down

_JITTER = 0.01
"""Seconds by which time stamps may tremble around the samples before these move."""
_LAST_JITTER = 0.1
"""The same within the last pieces, where too few follow to tell trembling from a gap."""
_FOLLOWING = 8
"""A gap or an overlap shows in the time stamps of so many pieces; a single wrong one moves nothing."""
_MOST_OVERLAP = 1.0
"""Seconds of sound that may be dropped because earlier ones take their time."""
_PIECE_BYTES = 300
"""What a piece takes beside its samples."""

POLICY = "whole track from the container's start; silence in gaps, overlaps trimmed, by time stamps beyond 10 ms"


@dataclass(frozen=True)
class Piece:
    """Mono samples ``[n]`` as one frame holds them; ``start`` in seconds from the container's start, if it is known."""

    samples: NDArray[np.float32]
    start: float | None


def load_video_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` of the sound track from the container's start, and their rate.

    Raises
    ------
    MediaFileError
        No video, no sound track, nothing decodable, an end long before the header's, a rate that changes, time stamps
        that take back a second or more, or more sound than may be read.
    """
    with opened(path) as container:
        stream = best_stream(path, container, "audio")
        start, reach, rate, pieces = origin(container), Reach(), 0, []
        for frame, samples in _decoded(path, container, stream, reach):
            # the container of an HE-AAC track may tell half the rate, a decoded frame tells it whole
            rate = rate or frame.sample_rate
            if frame.sample_rate != rate:
                raise MediaFileError(path, f"has sound whose rate changes from {rate} to {frame.sample_rate} Hz")
            take(path, samples.nbytes + _PIECE_BYTES)
            pieces.append(Piece(samples, None if frame.time is None else frame.time - start))
        if not pieces:
            raise MediaFileError(path, "has an audio stream without a sample that can be decoded")
        track = lay_out(path, pieces, rate)
        refuse_early_end(path, container, stream, len(track) / rate, reach, needed=float("inf"))
    return track, rate


def lay_out(path: Path, pieces: list[Piece], rate: int) -> NDArray[np.float32]:
    """The samples of all pieces from second 0, silence where there are none.

    Where pieces overlap, the beginning of the later one is dropped, and so is what lies before second 0.

    Raises
    ------
    MediaFileError
        Overlaps of more than a second, or time stamps that would make the track longer than any that is read.
    """
    lengths = np.array([len(piece.samples) for piece in pieces])
    packed = np.cumsum(lengths) - lengths
    starts = packed + _shifts(pieces, packed, rate)
    ends = starts + lengths
    total = max(0, int(ends.max()))
    if total > MAX_SAMPLES:
        raise MediaFileError(path, f"has time stamps that put its sound at {total / rate:.0f} s: more than may be read")
    take(path, 4 * total)
    track = np.zeros(total, np.float32)
    reached, dropped = 0, 0
    for piece, start, end in zip(pieces, starts.tolist(), ends.tolist(), strict=True):
        late = min(max(0, reached - start), end - start)
        track[start + late : end] = piece.samples[late:]
        dropped += late if start >= 0 else 0
        reached = max(reached, end)
    if dropped > _MOST_OVERLAP * rate:
        raise MediaFileError(path, f"has time stamps that leave no room for {dropped / rate:.1f} s of its sound")
    return track


def _shifts(pieces: list[Piece], packed: NDArray[np.int64], rate: int) -> NDArray[np.int64]:
    """Samples by which each piece lies later than if all were laid end to end, ``[pieces]``."""
    offsets = np.empty(len(pieces), np.int64)
    known = 0
    for index, piece in enumerate(pieces):
        if piece.start is not None:
            known = round(piece.start * rate) - int(packed[index])
        offsets[index] = known
    shifts = np.empty_like(offsets)
    shift = int(offsets[0])
    for index in range(len(offsets)):
        following = offsets[index : index + _FOLLOWING]
        slack = rate * (_JITTER if len(following) == _FOLLOWING else _LAST_JITTER)
        if following.min() - shift > slack:
            shift = int(following.min())
        elif shift - following.max() > slack:
            shift = int(following.max())
        shifts[index] = shift
    return shifts


def _decoded(
    path: Path, container: av.container.InputContainer, stream: av.stream.Stream, reach: Reach
) -> Iterator[tuple[av.AudioFrame, NDArray[np.float32]]]:
    """Each frame with its mono samples; channels may come and go, as between a broadcast and its advertisements."""
    kind, to_float, total = None, av.AudioResampler(format="fltp"), 0
    for packet in reach.packets(container):
        for frame in packet.decode() if packet.stream is stream else ():
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                to_float = av.AudioResampler(format="fltp")
            total += frame.samples * frame.layout.nb_channels
            if total > MAX_SAMPLES:
                raise MediaFileError(path, f"has a sound track of more than {MAX_SAMPLES} samples")
            converted = [mix_down(piece.to_ndarray()) for piece in to_float.resample(frame)]
            yield frame, converted[0] if len(converted) == 1 else np.concatenate(converted or [np.zeros(0, np.float32)])
