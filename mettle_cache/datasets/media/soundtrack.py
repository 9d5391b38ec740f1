"""The sound track of a video, every piece of it at the time that its time stamp says.

Packets get lost, and a recorder pauses: a track may lack pieces in its middle. Laid end to end, all that follows would
be heard too early. But time stamps also tremble, by the milliseconds to which they are rounded for one, and a hole of a
few samples is a click.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
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
        stream, reach = best_stream(path, container, "audio"), Reach()
        rate, decoded = _pieces(path, container, _decoded(path, container, stream, reach))
        pieces = []
        for piece in decoded:
            take(path, piece.samples.nbytes + _PIECE_BYTES)
            pieces.append(piece)
        track = lay_out(path, pieces, rate)
        refuse_early_end(path, container, stream, len(track) / rate, reach, needed=float("inf"))
    return track, rate


def stream_video_audio(path: Path) -> Iterator[tuple[NDArray[np.float32], int]]:
    """The same track second by second, ``[rate]`` each and the last one shorter, with its rate; of any length.

    Raises
    ------
    MediaFileError
        As :func:`load_video_audio`, in the second where it shows.
    """
    with opened(path) as container:
        stream, reach = best_stream(path, container, "audio"), Reach()
        rate, pieces = _pieces(path, container, _decoded(path, container, stream, reach, bounded=False))
        held: list[NDArray[np.float32]] = []
        reached = dropped = count = 0
        for piece, start in _placed(pieces, rate):
            late = min(max(0, reached - start), len(piece.samples))
            dropped += late if start >= 0 else 0
            _refuse_overlap(path, dropped, rate)
            for samples in chain(_silence(start - reached, rate), [piece.samples[late:]]):
                held.append(samples)
                count += len(samples)
                if count >= rate:
                    joined = np.concatenate(held)
                    whole = count // rate * rate
                    for second in range(0, whole, rate):
                        yield joined[second : second + rate], rate
                    held, count = [joined[whole:]], count - whole
            reached = max(reached, start + len(piece.samples))
        refuse_early_end(path, container, stream, reached / rate, reach, needed=float("inf"))
        if count:
            yield np.concatenate(held), rate


def _silence(samples: int, rate: int) -> Iterator[NDArray[np.float32]]:
    """A gap, a second at a time."""
    for start in range(0, samples, rate):
        yield np.zeros(min(rate, samples - start), np.float32)


def lay_out(path: Path, pieces: list[Piece], rate: int) -> NDArray[np.float32]:
    """The samples of all pieces from second 0, silence where there are none.

    Where pieces overlap, the beginning of the later one is dropped, and so is what lies before second 0.

    Raises
    ------
    MediaFileError
        Overlaps of more than a second, or time stamps that would make the track longer than any that is read.
    """
    placed = [(piece, start, start + len(piece.samples)) for piece, start in _placed(pieces, rate)]
    total = max(0, *(end for _, _, end in placed))
    if total > MAX_SAMPLES:
        raise MediaFileError(path, f"has time stamps that put its sound at {total / rate:.0f} s: more than may be read")
    take(path, 4 * total)
    track = np.zeros(total, np.float32)
    reached, dropped = 0, 0
    for piece, start, end in placed:
        late = min(max(0, reached - start), end - start)
        track[start + late : end] = piece.samples[late:]
        dropped += late if start >= 0 else 0
        reached = max(reached, end)
    _refuse_overlap(path, dropped, rate)
    return track


def _refuse_overlap(path: Path, dropped: int, rate: int) -> None:
    if dropped > _MOST_OVERLAP * rate:
        raise MediaFileError(path, f"has time stamps that leave no room for {dropped / rate:.1f} s of its sound")


def _placed(pieces: Iterable[Piece], rate: int) -> Iterator[tuple[Piece, int]]:
    """Each piece and the sample at which it starts; looks :data:`_FOLLOWING` pieces ahead."""
    source = iter(pieces)
    # with where each lies if all are laid end to end, and by how much later its time stamp puts it
    ahead: deque[tuple[Piece, int, int]] = deque()
    packed = offset = 0
    shift: int | None = None
    while True:
        while len(ahead) < _FOLLOWING and (piece := next(source, None)) is not None:
            if piece.start is not None:
                offset = round(piece.start * rate) - packed
            ahead.append((piece, packed, offset))
            packed += len(piece.samples)
        if not ahead:
            return
        following = [offset for _, _, offset in ahead]
        shift = following[0] if shift is None else shift
        slack = rate * (_JITTER if len(following) == _FOLLOWING else _LAST_JITTER)
        if min(following) - shift > slack:
            shift = min(following)
        elif shift - max(following) > slack:
            shift = max(following)
        piece, start, _ = ahead.popleft()
        yield piece, start + shift


def _pieces(
    path: Path,
    container: av.container.InputContainer,
    decoded: Iterator[tuple[av.AudioFrame, NDArray[np.float32]]],
) -> tuple[int, Iterator[Piece]]:
    """The rate of a track, and its pieces. Raises MediaFileError where there are none or the rate changes."""
    first = next(decoded, None)
    if first is None:
        raise MediaFileError(path, "has an audio stream without a sample that can be decoded")
    # the container of an HE-AAC track may tell half the rate, a decoded frame tells it whole
    rate, start = first[0].sample_rate, origin(container)

    def pieces() -> Iterator[Piece]:
        for frame, samples in chain([first], decoded):
            if frame.sample_rate != rate:
                raise MediaFileError(path, f"has sound whose rate changes from {rate} to {frame.sample_rate} Hz")
            yield Piece(samples, None if frame.time is None else frame.time - start)

    return rate, pieces()


def _decoded(
    path: Path, container: av.container.InputContainer, stream: av.stream.Stream, reach: Reach, *, bounded: bool = True
) -> Iterator[tuple[av.AudioFrame, NDArray[np.float32]]]:
    """Each frame with its mono samples; channels may come and go, as between a broadcast and its advertisements.

    More samples of all channels than a recording may have are refused where it is ``bounded``.
    """
    kind, to_float, total = None, av.AudioResampler(format="fltp"), 0
    for packet in reach.packets(container):
        for frame in packet.decode() if packet.stream is stream else ():
            if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                to_float = av.AudioResampler(format="fltp")
            total += frame.samples * frame.layout.nb_channels
            if bounded and total > MAX_SAMPLES:
                raise MediaFileError(path, f"has a sound track of more than {MAX_SAMPLES} samples")
            converted = [mix_down(piece.to_ndarray()) for piece in to_float.resample(frame)]
            yield frame, converted[0] if len(converted) == 1 else np.concatenate(converted or [np.zeros(0, np.float32)])
