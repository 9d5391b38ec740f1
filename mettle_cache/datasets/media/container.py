"""Opening a video: only real containers, only this file, and the streams that are wanted of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from mettle_cache.content import begins_as_container, begins_as_sound, describe_content
from mettle_cache.datasets.media.cut_off import promised_seconds, refuse_cut_file
from mettle_cache.datasets.media.fault import MediaFileError, read_head, require_file
from mettle_cache.datasets.media.mp4_boxes import refuse_absurd_counts
from mettle_cache.datasets.media.pixels import MAX_PIXELS

# A playlist named .mp4 would make FFmpeg open other files and addresses: none is among these, and only this file opens.
# Which of them a file is, FFmpeg finds in its content.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,aac"
_SOUND_FILES = "wav,w64,flac,ogg,aiff,caf,au,mp3"
_PROMISING = ("mov", "matroska", "avi", "flv", "asf")
"""Formats whose headers tell how long they are; for others FFmpeg reads the last time stamp, or guesses by the size."""
_TELLING = ("mov", "avi")
"""Those that tell it of each stream."""
SLACK = 1.0
"""Seconds by which a stream may end before its header says; real files miss a few frames, a cut-off one misses more."""
# what PyAV and its decoders raise for bytes that make no sense
_BAD_BYTES = (av.FFmpegError, OSError, ValueError, ArithmeticError, LookupError)


@contextmanager
def opened(path: Path, *, sound: bool = False) -> Iterator[av.container.InputContainer]:
    """The open container, or sound file; whatever FFmpeg finds wrong inside the block is a MediaFileError.

    Raises
    ------
    MediaFileError
        No file, no container of the kinds above (what the file is instead is said), one that lost its end, or bytes
        that cannot be decoded.
    """
    require_file(path)
    try:
        refuse_cut_file(path)
        refuse_absurd_counts(path)
        # Absolute, so that no folder with a colon in its name passes for a protocol. Tags of real downloads are not
        # always UTF-8, and nobody reads them here.
        with av.open(
            os.path.abspath(path),
            options={"max_pixels": str(MAX_PIXELS)},
            container_options={
                "format_whitelist": _SOUND_FILES if sound else _CONTAINERS,
                "protocol_whitelist": "file",
            },
            metadata_errors="replace",
        ) as container:
            yield container
    except _BAD_BYTES as error:
        raise _undecodable(path, error, sound=sound) from error


def best_stream(path: Path, container: av.container.InputContainer, kind: str) -> av.stream.Stream:
    """The stream of ``kind`` ("video" or "audio") that FFmpeg prefers; a cover picture is no video.

    Raises
    ------
    MediaFileError
        There is none, FFmpeg cannot decode it, or its header asks for more than is decoded here.
    """
    stream = container.streams.best(kind)
    if stream is not None and _is_cover(stream):
        stream = next((other for other in container.streams if other.type == kind and not _is_cover(other)), None)
    if stream is None:
        raise MediaFileError(path, f"has no {kind} stream")
    context = stream.codec_context
    if context is None:
        raise MediaFileError(path, f"has a {kind} stream of a kind that FFmpeg cannot decode")
    if kind == "video" and not 0 < context.width * context.height <= MAX_PIXELS:
        raise MediaFileError(path, f"is {context.width} x {context.height}: empty, or more than {MAX_PIXELS} pixels")
    if kind == "audio" and context.sample_rate <= 0:
        raise MediaFileError(path, "has an audio stream without a sample rate")
    context.thread_count = 1  # several clips are decoded at once already
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def origin(container: av.container.InputContainer) -> float:
    """Seconds at which the container starts on its streams' clocks."""
    return float((container.start_time or 0) / av.time_base)


class Reach:
    """How far packets go: the end of the last one that was read, in seconds on the streams' clocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def packets(self, container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
        """The packets of ``streams``, or all of the file, in its order; ``seconds`` follows them."""
        for packet in container.demux(*streams):
            if packet.pts is not None and packet.time_base is not None:
                self.seconds = max(self.seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            yield packet


def refuse_early_end(
    path: Path,
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    end: float,
    reach: Reach,
    *,
    needed: float,
) -> None:
    """Refuse a stream that ends at ``end``, before the ``needed`` second, if its file has lost its end.

    A short video is repeated or padded; one that is shorter than its own header says was cut off. The header of an MP4
    or AVI tells for each stream how long it is, those of others and of fragments tell it of the whole file.
    """
    if not container.format.name.startswith(_PROMISING):
        return
    if stream.duration is not None and stream.time_base is not None:
        promised = float(stream.duration * stream.time_base)
        if end + SLACK < min(promised, needed):
            raise MediaFileError(path, f"is cut off: its {stream.type} ends at {end:.1f} s of {promised:.1f} s")
    whole = promised_seconds(path) or (container.duration or 0) / av.time_base
    if end + SLACK < needed and reach.seconds + SLACK < whole:
        raise MediaFileError(path, f"is cut off: it ends at {reach.seconds:.1f} s of {whole:.1f} s")


def measure(path: Path, kind: str) -> float:
    """When the stream of ``kind`` ends, in seconds from the container's start.

    The header tells, or a pass over the packets where it does not: that of fragments, or of a stream. Nothing is
    decoded.

    Raises
    ------
    MediaFileError
        As :func:`opened` and :func:`best_stream`.
    """
    with opened(path) as container:
        stream, reach = best_stream(path, container, kind), Reach()
        if container.format.name.startswith(_TELLING) and stream.frames and stream.duration is not None:
            end = float(((stream.start_time or 0) + stream.duration) * (stream.time_base or 0))
        else:
            for _ in reach.packets(container, stream):
                pass
            end = reach.seconds
        return end - origin(container)


def _is_cover(stream: av.stream.Stream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _undecodable(path: Path, error: Exception, *, sound: bool) -> MediaFileError:
    reason = getattr(error, "strerror", None) or str(error)
    head = read_head(path)
    if not (begins_as_container(head) or head.startswith(b"OggS") or (sound and begins_as_sound(head))):
        reason = f"it is {describe_content(head)}"
    return MediaFileError(path, f"cannot be decoded: {reason}")
