"""Masks on the video that they are of: a second's mask on all pictures of that second, with the sound kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mettle_cache.datasets.media import decode, pictures, pixels
from mettle_cache.datasets.media.container import best_stream, opened, origin
from mettle_cache.datasets.media.video import stream_video_frames
from mettle_cache.pipelines.predict.windows import MediaPlan
from mettle_cache.store.writing.durable import write_atomically

Mask = NDArray[np.bool_]
# vermilion, as in the figures
TINT = (213, 94, 0)
_STRENGTH = 0.55
_MOST_FPS, _USUAL_FPS = 60, 25
# a mask has 224 pixels a side: what a camera of today records would only take longer
_LONGEST = 1280
# what an MP4 holds as it is; other sound is encoded anew
_KEPT = ("aac", "mp3")
_SOUND_RATE = 48_000


def write_overlay(plan: MediaPlan, mask_of: Callable[[int], Mask], path: Path) -> None:
    """Write the pictures of an item with the mask ``[224, 224]`` of each second on them, and its sound, as MP4.

    H.264, or MPEG-4 where this build of FFmpeg has no encoder for it. A folder of pictures becomes one a second. The
    longer side has 1280 pixels at most.

    Raises
    ------
    MediaFileError
        The item cannot be read any more.
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    write_atomically(path, lambda partial: _write(plan, mask_of, partial))


def _write(plan: MediaPlan, mask_of: Callable[[int], Mask], path: Path) -> None:
    frames, sound = plan.item.frames, plan.item.sound
    fps = _frame_rate(frames) if frames is not None and frames.is_file() else Fraction(1)
    with av.open(str(path), "w", format="mp4") as out:
        shown = _tinted(_pictures(plan, fps), fps, mask_of)
        first = next(shown)
        encoder = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"crf": "20", "preset": "veryfast"} if encoder == "libx264" else {"q": "3"}
        video = out.add_stream(encoder, rate=fps, options=options)
        video.height, video.width = first.shape[:2]
        video.pix_fmt = "yuv420p"
        streams = [_video_packets(video, chain([first], shown))]
        if sound is not None and "silence" not in plan.filled and sound.suffix.lower() != ".npy":
            streams.append(_sound_packets(out, sound, plan.total))
        for packet in _interleaved(streams):
            out.mux(packet)


def _frame_rate(path: Path) -> Fraction:
    with opened(path) as container:
        rate = best_stream(path, container, "video").average_rate
    # fewer than one a second would leave masks out; MPEG-4 wants short fractions
    usual = min(max(Fraction(rate), Fraction(1)), Fraction(_MOST_FPS)) if rate else Fraction(_USUAL_FPS)
    return usual.limit_denominator(1001)


def _pictures(plan: MediaPlan, fps: Fraction) -> Iterator[NDArray[np.uint8]]:
    frames = plan.item.frames
    count = int(plan.total * fps)
    if frames is None or "black" in plan.filled:
        return iter([np.zeros((224, 224, 3), np.uint8)] * count)
    if frames.is_dir():
        return map(pixels.load_picture, pictures.segment_pictures(frames, plan.total))
    return stream_video_frames(frames, [float((number + Fraction(1, 2)) / fps) for number in range(count)])


def _tinted(
    shown: Iterator[NDArray[np.uint8]], fps: Fraction, mask_of: Callable[[int], Mask]
) -> Iterator[NDArray[np.uint8]]:
    """Each picture with its second's mask; sides are even, as video codecs want them."""
    colour = _STRENGTH * np.array(TINT, np.float32)

    @lru_cache(maxsize=1)
    def resized(second: int, height: int, width: int) -> Mask:
        mask = Image.fromarray(mask_of(second)).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(mask, bool)

    for number, picture in enumerate(shown):
        tinted = _even(picture)
        height, width = tinted.shape[:2]
        mask = resized(int(number / fps), height, width)
        tinted[mask] = ((1 - _STRENGTH) * tinted[mask] + colour).astype(np.uint8)
        yield tinted


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy with even sides, of which the longer one is at most ``_LONGEST``."""
    longest = max(picture.shape[:2])
    if longest <= _LONGEST:
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        return picture[:height, :width].copy()
    height, width = (max(2, round(side * _LONGEST / longest / 2) * 2) for side in picture.shape[:2])
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2))


def _video_packets(stream: av.VideoStream, shown: Iterator[NDArray[np.uint8]]) -> Iterator[av.Packet]:
    for number, picture in enumerate(shown):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, 1 / Fraction(stream.codec_context.rate)
        # pictures of a folder may differ in size
        yield from stream.encode(frame.reformat(stream.width, stream.height, "yuv420p"))
    yield from stream.encode(None)


def _sound_packets(out: av.container.OutputContainer, path: Path, seconds: int) -> Iterator[av.Packet]:
    """The sound as it is where an MP4 holds that, else as AAC. Its stream is made before the first packet comes."""
    with opened(path, sound=not decode.holds_track(path)) as container:
        heard, start = best_stream(path, container, "audio"), origin(container)
        if heard.codec_context.name in _KEPT:
            kept = out.add_stream_from_template(heard)
            for packet in container.demux(heard):
                if packet.dts is None or packet.pts is None:
                    continue
                shift = round(start / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, kept
                if packet.pts * packet.time_base < seconds:
                    yield packet
            return
        stream = out.add_stream("aac", rate=_SOUND_RATE, layout="stereo")
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=_SOUND_RATE)
        for packet in container.demux(heard):
            for frame in packet.decode():
                if frame.time is None or frame.time - start < seconds:
                    for piece in resampler.resample(frame):
                        yield from stream.encode(piece)
        yield from stream.encode(None)


def _interleaved(streams: Sequence[Iterator[av.Packet]]) -> Iterator[av.Packet]:
    """Packets of several streams by their times; every stream is begun before the first packet is handed on."""
    heads = [(packets, next(packets, None)) for packets in streams]
    waiting = [(packets, head) for packets, head in heads if head is not None]
    while waiting:
        place = min(range(len(waiting)), key=lambda n: waiting[n][1].dts * waiting[n][1].time_base)
        packets, head = waiting[place]
        yield head
        following = next(packets, None)
        waiting[place : place + 1] = [] if following is None else [(packets, following)]
