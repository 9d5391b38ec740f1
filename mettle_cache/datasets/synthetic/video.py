"""Pictures and a sound track to an .mp4 file, the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BLOCK = 1024  # samples of an AAC frame


def write_mp4(path: Path, pictures: Iterable[Image.Image], fps: int, track: NDArray[np.float32], rate: int) -> None:
    """Write H.264 where this build of FFmpeg has an encoder for it, MPEG-4 otherwise, and mono AAC.

    ``track`` holds mono samples ``[n]`` at ``rate`` Hz.
    """
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as out:
        encoder = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"crf": "23", "preset": "veryfast"} if encoder == "libx264" else {"q": "4"}
        video = out.add_stream(encoder, rate=fps, options={**options, "threads": "1"})
        audio = out.add_stream("aac", rate=rate, layout="mono", options={"flags": "+bitexact"})
        video.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            if number == 0:
                video.width, video.height = picture.size
            out.mux(video.encode(av.VideoFrame.from_image(picture)))
        out.mux(video.encode(None))
        for at in range(0, len(track), _BLOCK):
            block = av.AudioFrame.from_ndarray(track[None, at : at + _BLOCK], format="fltp", layout="mono")
            block.sample_rate, block.pts = rate, at
            out.mux(audio.encode(block))
        out.mux(audio.encode(None))
