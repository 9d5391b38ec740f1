"""Videos: the pictures shown at given times and the sound track, streamed so that memory stays bounded.

Time 0 is the container's start, the same for both streams, so that a track that begins late stays in step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.datasets.media.pictures import MAX_PIXELS
from mettle_cache.datasets.media.waveform import MAX_SAMPLES, mix_down

# a playlist named .mp4 would make FFmpeg open other files and addresses: only real containers, only this file
_OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
    "protocol_whitelist": "file",
}
# The same pixels on every processor, correctly rounded: swscale's default is darker by half a grey level on average,
# and its accurate rounding without full chroma by almost two.
_TO_RGB = int(
    Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
)
_SLACK = 1.0
"""Seconds by which a stream may end before its header says; real files miss a few frames, a cut-off one misses more."""

POLICY: dict[str, object] = {
    "frames": "shown at t + 0.5 s from the container's start; the first or last picture where none is",
    "pixels": "swscale to RGB, bicubic, full chroma, accurate rounding, bit-exact",
    "audio": "whole track, silence up to a late start",
}


def decoder_versions() -> dict[str, object]:
    """The libraries whose version can change a decoded pixel or sample."""
    return {name: list(av.library_versions[name]) for name in ("libavcodec", "libswscale")}


def load_video_frames(path: Path, times: Sequence[float]) -> list[NDArray[np.uint8]]:
    """The picture ``[H, W, 3]`` shown at each of the increasing ``times`` (seconds).

    Raises
    ------
    MediaFileError
        No video, no video stream, nothing decodable, damaged pictures, or an end long before the header's.
    """
    chosen: list[NDArray[np.uint8]] = []
    with _opened(path) as container:
        stream = _stream(path, container, "video")
        origin, shown, end = _origin(container), None, 0.0
        for frame in container.decode(stream):
            if frame.time is None:
                raise MediaFileError(path, "has pictures without a time stamp")
            end = frame.time - origin
            _fill(path, chosen, frame if shown is None else shown, times, until=end)
            if len(chosen) == len(times):
                return chosen
            shown = frame
        if shown is None:
            raise MediaFileError(path, "has a video stream without a picture that can be decoded")
        _refuse_early_end(path, stream, end, needed=times[-1])
        _fill(path, chosen, shown, times, until=float("inf"))
    return chosen


def load_video_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """Mono samples ``[n]`` of the sound track and their rate. Raises MediaFileError like :func:`load_video_frames`."""
    pieces: list[NDArray[np.float32]] = []
    rate, total, start = 0, 0, 0.0
    with _opened(path) as container:
        stream = _stream(path, container, "audio")
        to_float = av.AudioResampler(format="fltp")
        for frame in container.decode(stream):
            if not pieces:
                # the container of an HE-AAC track may tell half the rate, a decoded frame tells it whole
                rate, start = frame.sample_rate, (frame.time or 0.0) - _origin(container)
            for piece in to_float.resample(frame):
                total += piece.samples * piece.layout.nb_channels
                if total > MAX_SAMPLES:
                    raise MediaFileError(path, f"has a sound track of more than {MAX_SAMPLES} samples")
                pieces.append(mix_down(piece.to_ndarray()))
        if not total:
            raise MediaFileError(path, "has an audio stream without a sample that can be decoded")
        samples = np.concatenate([_silence(path, start, rate), *pieces])
        _refuse_early_end(path, stream, len(samples) / rate, needed=float("inf"))
    return samples, rate


def check_video(path: Path, *, video: bool, audio: bool) -> None:
    """Open the file and look for the streams that are wanted. Raises MediaFileError."""
    with _opened(path) as container:
        for kind, needed in (("video", video), ("audio", audio)):
            if needed:
                _stream(path, container, kind)


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    require_file(path)
    try:
        # tags of real downloads are not always UTF-8, and nobody reads them here
        with av.open(str(path), container_options=_OPEN_OPTIONS, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaFileError(path, f"cannot be decoded: {reason}") from error


def _stream(path: Path, container: av.container.InputContainer, kind: str) -> av.stream.Stream:
    stream = container.streams.best(kind)
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
    return stream


def _origin(container: av.container.InputContainer) -> float:
    """Seconds at which the container starts on its streams' clocks."""
    return float((container.start_time or 0) / av.time_base)


def _fill(
    path: Path, chosen: list[NDArray[np.uint8]], frame: av.VideoFrame, times: Sequence[float], *, until: float
) -> None:
    """Append ``frame`` for every wanted time that comes before ``until``, when the next one is shown."""
    pixels: NDArray[np.uint8] | None = None
    while len(chosen) < len(times) and times[len(chosen)] < until:
        if pixels is None:
            pixels = _rgb(path, frame)
        chosen.append(pixels)


def _rgb(path: Path, frame: av.VideoFrame) -> NDArray[np.uint8]:
    if frame.is_corrupt:
        raise MediaFileError(path, f"has a damaged picture at {frame.time:.2f} s")
    if frame.width * frame.height > MAX_PIXELS:
        raise MediaFileError(path, f"has a picture of {frame.width} x {frame.height}: more than {MAX_PIXELS} pixels")
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", interpolation=_TO_RGB)
    return pixels


def _refuse_early_end(path: Path, stream: av.stream.Stream, end: float, *, needed: float) -> None:
    """A short video is repeated or padded; one that is shorter than its own header says has lost its end."""
    if stream.duration is None or stream.time_base is None:
        return
    promised = float(stream.duration * stream.time_base)
    if end + _SLACK < min(promised, needed):
        raise MediaFileError(path, f"is cut off: its {stream.type} ends at {end:.1f} s of {promised:.1f} s")


def _silence(path: Path, start: float, rate: int) -> NDArray[np.float32]:
    """What is heard before a track that starts ``start`` seconds late; nothing for one that starts early."""
    count = max(0, round(start * rate))
    if count > MAX_SAMPLES:
        raise MediaFileError(path, f"has a sound track that starts after {start:.0f} s")
    return np.zeros(count, np.float32)
