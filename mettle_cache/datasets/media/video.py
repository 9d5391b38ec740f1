"""The pictures that a video shows at given times, upright, streamed so that memory stays bounded.

Time 0 is the container's start, the same for both streams, so that a track that begins late stays in step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from mettle_cache.datasets.media import soundtrack
from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.container import Reach, best_stream, opened, origin, refuse_early_end
from mettle_cache.datasets.media.fault import MediaFileError
from mettle_cache.datasets.media.orientation import show_upright
from mettle_cache.datasets.media.pixels import MAX_PIXELS

# The same pixels on every processor, correctly rounded: swscale's default is darker by half a grey level on average,
# and its accurate rounding without full chroma by almost two.
_TO_RGB = int(
    Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)
_MOST_BACK = 1.0
"""Seconds by which a time stamp may lie before the one of the picture before it: two videos joined are no video."""
_HELD = 20
"""Pictures that a decoder may hold for those to come: up to 16 that these refer to, and a few on their way."""

POLICY: dict[str, object] = {
    "frames": "shown at t + 0.5 s from the container's start; the first or last picture where none is",
    "pixels": "swscale to RGB, bicubic, full chroma, accurate rounding, bit-exact; turned by the display matrix",
    "audio": soundtrack.POLICY,
}


def decoder_versions() -> dict[str, object]:
    """The libraries whose version can change a decoded pixel or sample."""
    return {name: list(av.library_versions[name]) for name in ("libavcodec", "libswscale")}


def load_video_frames(path: Path, times: Sequence[float]) -> list[NDArray[np.uint8]]:
    """The picture ``[H, W, 3]`` shown at each of the increasing ``times`` (seconds), turned as a player turns it.

    Raises
    ------
    MediaFileError
        No video, no video stream, nothing decodable, damaged pictures, time stamps that jump back, an end long before
        the header's, or an odd angle.
    """
    return list(stream_video_frames(path, times))


def stream_video_frames(path: Path, times: Sequence[float]) -> Iterator[NDArray[np.uint8]]:
    """The same pictures one by one, so that no more than one is held. Raises as :func:`load_video_frames`."""
    left = deque(times)
    with opened(path) as container:
        stream = best_stream(path, container, "video")
        start, reach, shown, now = origin(container), Reach(), None, 0.0
        for time, frame in _timed_pictures(path, container, stream, reach):
            if shown is not None and time - start < now - _MOST_BACK:
                raise MediaFileError(
                    path, f"has time stamps that jump back by {now - time + start:.1f} s, at {now:.1f} s"
                )
            now = time - start
            yield from _shown_until(path, frame if shown is None else shown, left, until=now)
            if not left:
                return
            shown = frame
        if shown is None:
            raise MediaFileError(path, "has a video stream without a picture that can be decoded")
        refuse_early_end(path, container, stream, now, reach, needed=times[-1])
        yield from _shown_until(path, shown, left, until=float("inf"))


def _timed_pictures(
    path: Path, container: av.container.InputContainer, stream: av.stream.Stream, reach: Reach
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Each picture and the second, on the stream's clock, at which it is shown.

    AVI stores no such times: they are those of its packets, which pictures share out in the order in which they are
    shown, whatever order they are decoded in.
    """
    untimed = container.format.name == "avi"
    of_packets: deque[int] = deque()
    pixels = _take_pictures(path, stream.codec_context, larger_than=0)
    for packet in reach.packets(container):
        if packet.stream is not stream:
            continue
        if untimed and packet.dts is not None and packet.size:
            of_packets.append(packet.dts)
        for frame in packet.decode():
            stamp = of_packets.popleft() if of_packets else frame.pts
            if stamp is None:
                raise MediaFileError(path, "has pictures without a time stamp")
            pixels = _take_pictures(path, frame, larger_than=pixels)
            yield float(stamp * stream.time_base), frame


def _take_pictures(path: Path, picture: av.VideoFrame | av.VideoCodecContext, *, larger_than: int) -> int:
    """Take the memory of a decoder of pictures of this size, if it is larger than the one before; the larger of both.

    A few kilobytes hold any number of blank pictures, which all refer to one another.
    """
    pixels = picture.width * picture.height
    if pixels <= larger_than:
        return larger_than
    bits = picture.format.bits_per_pixel if picture.format else 24
    take(path, _HELD * (pixels - larger_than) * bits // 8)
    return int(pixels)


def _shown_until(path: Path, frame: av.VideoFrame, left: deque[float], *, until: float) -> Iterator[NDArray[np.uint8]]:
    """``frame`` for every wanted time that comes before ``until``, when the next one is shown; takes them away."""
    pixels: NDArray[np.uint8] | None = None
    while left and left[0] < until:
        if pixels is None:
            pixels = _rgb(path, frame)
        left.popleft()
        yield pixels


def _rgb(path: Path, frame: av.VideoFrame) -> NDArray[np.uint8]:
    if frame.is_corrupt:
        raise MediaFileError(path, "has a damaged picture" + ("" if frame.time is None else f" at {frame.time:.2f} s"))
    if frame.width * frame.height > MAX_PIXELS:
        raise MediaFileError(path, f"has a picture of {frame.width} x {frame.height}: more than {MAX_PIXELS} pixels")
    take(path, 3 * frame.width * frame.height)
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", interpolation=_TO_RGB)
    return show_upright(path, frame, pixels)
