"""Sound files that libsndfile does not read, by FFmpeg: BW64, lengths that are not told, codecs rarely found in WAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets.media.allowance import take
from mettle_cache.datasets.media.container import best_stream, opened
from mettle_cache.datasets.media.fault import MediaFileError


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
        ticks = sum(packet.duration or 0 for packet in container.demux(stream))
        return int(ticks * (stream.time_base or 0) * stream.codec_context.sample_rate)


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
    with opened(path, sound=True) as container:
        stream = best_stream(path, container, "audio")
        # a damaged piece is an error, not a gap
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
        yield container, stream
