"""Videos whose pictures tell their number by their grey, and whose sound is known."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

GREY_STEP = 4


VideoMaker = Callable[..., Path]


def _encode_pictures(
    out: av.container.OutputContainer, stream: av.VideoStream, count: int, first: Fraction, fps: Fraction
) -> None:
    for number in range(count):
        grey = 16 + GREY_STEP * number
        frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")
        frame.pts, frame.time_base = round(first * fps) + number, 1 / fps
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def _encode_sound(out: av.container.OutputContainer, stream: av.AudioStream, sound: np.ndarray, first_pts: int) -> None:
    rate = stream.codec_context.sample_rate
    for at in range(0, sound.shape[1], 1024):
        block = np.ascontiguousarray(sound[:, at : at + 1024])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono" if len(sound) == 1 else "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, first_pts + at, Fraction(1, rate)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


@pytest.fixture
def make_video(tmp_path: Path) -> VideoMaker:
    """Write a video of ``count`` pictures at ``fps``; sound ``[channels, n]`` at ``rate``; either can be left out, or
    start late: ``late_picture`` in seconds, ``late_sound`` in samples; ``front`` puts the index first."""

    def make(
        *,
        count: int = 40,
        fps: int | Fraction = 4,
        sound: np.ndarray | None = None,
        rate: int = 16_000,
        late_picture: float = 0,
        late_sound: int = 0,
        front: bool = False,
    ) -> Path:
        path = tmp_path / "clip.mp4"
        flags = {"movflags": "+faststart"} if front else {}
        with av.open(str(path), "w", container_options=flags) as out:
            if count:
                video = out.add_stream("libx264", rate=fps, options={"crf": "1", "threads": "1"})
                video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
            if sound is not None:
                audio = out.add_stream("aac", rate=rate, layout="mono" if len(sound) == 1 else "stereo")
                audio.bit_rate = 128_000
            if count:
                _encode_pictures(out, video, count, Fraction(late_picture), Fraction(fps))
            if sound is not None:
                _encode_sound(out, audio, sound, late_sound)
        return path

    return make
