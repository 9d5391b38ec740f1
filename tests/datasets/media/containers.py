"""Small videos in every container, whose pictures tell their number and whose sound tells its time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np

FPS = 4
BURST = 0.1
"""Seconds; a burst of sound begins at 0.2 s after each whole second."""


@dataclass(frozen=True)
class Kind:
    """A container, the codecs in it and its writer's options."""

    suffix: str
    video: str = "libx264"
    audio: str = "aac"
    rate: int = 16_000
    options: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "mp4": Kind(".mp4"),
    "faststart": Kind(".mp4", options={"movflags": "+faststart"}),
    "fragments": Kind(".mp4", options={"movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov"}),
    "dash": Kind(".mp4", options={"movflags": "dash+delay_moov+frag_keyframe"}),
    "indexed": Kind(".mp4", options={"movflags": "dash+delay_moov+frag_keyframe+global_sidx"}),
    "mov": Kind(".mov", audio="pcm_s16le"),
    "mkv": Kind(".mkv", audio="pcm_s16le"),
    "mkv-aac": Kind(".mkv", rate=44_100),
    "webm": Kind(".webm", video="libvpx", audio="libopus", rate=48_000),
    "live": Kind(".mkv", options={"live": "1"}),
    "avi": Kind(".avi", audio="pcm_s16le"),
    "ts": Kind(".ts"),
    "flv": Kind(".flv", rate=44_100),
    "mpg": Kind(".mpg", video="mpeg2video", audio="mp2"),
}


def bursts(seconds: float, rate: int) -> np.ndarray:
    """``[1, n]``: 1 kHz for a tenth of a second after each whole second and 0.2, louder each time."""
    t = np.arange(round(seconds * rate)) / rate
    heard = (t % 1 >= 0.2) & (t % 1 < 0.2 + BURST)
    return (heard * (0.1 + 0.05 * np.floor(t)) * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)[None]


def burst_times(samples: np.ndarray, rate: int) -> list[float]:
    """Where each burst begins, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.04)
    return [round(float(start) / rate, 3) for start in loud[np.diff(loud, prepend=-rate) > 0.05 * rate]]


def grey_number(picture: np.ndarray) -> int:
    """The number of a picture that :func:`write_video` wrote."""
    return round((float(picture.mean()) - 16) / 4)


@cache
def whole_video(kind: str) -> bytes:
    """Ten seconds of one of ``KINDS`` as :func:`write_video` writes it by default."""
    with TemporaryDirectory() as folder:
        return write_video(Path(folder) / f"clip{KINDS[kind].suffix}", KINDS[kind]).read_bytes()


def copy_packets(path: Path, kind: str, *, wanted: Callable[[av.Packet], bool]) -> Path:
    """Write those packets of :func:`whole_video` that are ``wanted``; quicker than to encode them again."""
    options = dict(KINDS[kind].options)
    with (
        av.open(io.BytesIO(whole_video(kind))) as source,
        av.open(str(path), "w", format=_muxer(KINDS[kind]), container_options=options) as out,
    ):
        copies = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None and wanted(packet):
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return path


def write_video(
    path: Path,
    kind: Kind,
    *,
    seconds: float = 10.0,
    picture: Callable[[int], np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    edit: Callable[[av.Packet], av.Packet | None] = lambda packet: packet,
) -> Path:
    """Write ``seconds`` of pictures, four a second, and of sound; ``edit`` may change or drop each packet."""
    sound = bursts(seconds, kind.rate) if sound is None else sound
    fps = 25 if kind.video == "mpeg2video" else FPS
    draw = picture or (lambda number: np.full((32, 48, 3), 16 + 4 * (number * FPS // fps), np.uint8))
    with av.open(str(path), "w", format=_muxer(kind), container_options=dict(kind.options)) as out:
        options = {"crf": "1", "threads": "1", "g": "4"} if kind.video == "libx264" else {"threads": "1"}
        video = out.add_stream(kind.video, rate=fps, options=options)
        video.height, video.width = draw(0).shape[:2]
        video.pix_fmt = "yuv420p"
        audio = out.add_stream(kind.audio, rate=kind.rate, layout="mono" if len(sound) == 1 else "stereo")
        packets = [*_pictures(video, draw, round(seconds * fps), fps), *_sound(audio, sound, kind.rate)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            if packet.size and (edited := edit(packet)) is not None:
                out.mux(edited)
    return path


def _muxer(kind: Kind) -> str | None:
    return {".mkv": "matroska", ".mpg": "mpeg"}.get(kind.suffix)


def _pictures(stream: av.VideoStream, draw: Callable[[int], np.ndarray], count: int, fps: int) -> list[av.Packet]:
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _sound(stream: av.AudioStream, sound: np.ndarray, rate: int) -> list[av.Packet]:
    packets, whole = [], stream.codec_context.format.name in ("s16", "s16p")
    block = stream.codec_context.frame_size or 1024
    for at in range(0, sound.shape[1], block):
        piece = sound[:, at : at + block]
        values = np.round(piece * 32767).astype(np.int16) if whole else piece
        if not stream.codec_context.format.is_planar:
            values = values.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(values),
            format=stream.codec_context.format.name,
            layout="mono" if len(sound) == 1 else "stereo",
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]
