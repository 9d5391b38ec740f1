"""Sound files that libsndfile does not read, by FFmpeg: BW64, lengths that are not told, codecs rarely found in WAV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.fault import MediaFileError

# none that reads other files or addresses, and none that takes any bytes for its own
_OPEN_OPTIONS = {"format_whitelist": "wav,w64,flac,ogg,aiff,caf,au,mp3", "protocol_whitelist": "file"}


def decoder_versions() -> dict[str, object]:
    """The library whose version can change a sample."""
    return {"libavcodec": list(av.library_versions["libavcodec"])}


def check(path: Path) -> None:
    """Open the file and look for sound. Raises MediaFileError."""
    with _opened(path):
        pass


def count_samples(path: Path) -> int:
    """Samples of a channel by the lengths that its packets tell; nothing is decoded. Raises MediaFileError."""
    with _opened(path) as (container, stream):
        return sum(packet.duration or 0 for packet in container.demux(stream))


def read_channels(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples ``[channels, n]`` and their rate. Raises MediaFileError."""
    pieces: list[NDArray[np.float32]] = []
    with _opened(path) as (container, stream):
        to_float = av.AudioResampler(format="fltp")
        for frame in container.decode(stream):
            for piece in to_float.resample(frame):
                # once as it is, once joined with the others
                take(path, 2 * 4 * piece.samples * piece.layout.nb_channels)
                pieces.append(piece.to_ndarray())
        rate = stream.codec_context.sample_rate
    if not pieces:
        raise MediaFileError(path, "holds no samples")
    if len({len(piece) for piece in pieces}) > 1:
        raise MediaFileError(path, "changes its number of channels on the way")
    return np.concatenate(pieces, axis=1), rate


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    try:
        with av.open(os.path.abspath(path), container_options=_OPEN_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MediaFileError(path, "holds no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None or stream.codec_context.sample_rate <= 0:
                raise MediaFileError(path, "holds sound of a kind that FFmpeg cannot decode")
            # a damaged piece is an error, not a gap
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
            stream.codec_context.thread_count = 1  # several clips are decoded at once already
            yield container, stream
    except (av.FFmpegError, ValueError) as error:
        raise MediaFileError(path, f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from error
