"""Pictures within a page: frames of clips as small JPEGs, and masks as transparent overlays, worst samples first.

The media are the data set's, and may be gone; then there are no frames. Pictures end where their bytes would exceed a
limit: a page has to open at once, on a telephone too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mettle_cache.datasets import Clip, Dataset
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.page.clips.clip_list import ClipList
from mettle_cache.pipelines.page.clips.masks import MaskSample
from mettle_cache.pipelines.progress import Progress

MOST_BYTES = 6_000_000
STRIP_HEIGHT = 56
STRIP_FRAMES = 10
FRAME_SIDE = 128
_QUALITY = 68
_WIDEST = 2.0
# hit; missed, in stripes one way; too much, in stripes the other way: told apart without their colours too
_HIT, _MISSED, _FALSE = (0, 158, 115), (0, 114, 178), (213, 94, 0)
_PALETTE = ((0, 0, 0, 0), (*_HIT, 135), (*_MISSED, 215), (*_MISSED, 105), (*_FALSE, 215), (*_FALSE, 105))
_STRIPE = 8

Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


@dataclass
class Frames:
    """Pictures of a data set's clips; ``failed`` collects those that cannot be decoded."""

    dataset: Dataset
    failed: dict[str, str]

    def __post_init__(self) -> None:
        self._clips: dict[str, Clip] = {clip.id: clip for clip in self.dataset.clips}

    def __call__(self, clip: str) -> list[Picture]:
        """All pictures of a clip, RGB ``[H, W, 3]``; none where its media are missing or damaged."""
        if clip not in self._clips:
            self.failed.setdefault(clip, "the data set has no such clip")
        elif clip not in self.failed:
            try:
                return list(self.dataset.load_frames(self._clips[clip]))
            except MediaError as error:
                self.failed[clip] = error.message
        return []


@dataclass(frozen=True)
class Drawn:
    """How many items have pictures, and how many were left out because the page would get too large."""

    shown: int
    left_out: int


def add_strips(clips: ClipList, frames: Frames, progress: Progress, *, most: int = MOST_BYTES) -> Drawn:
    """Give items a strip ``th`` of their clip's frames, side by side. Items of one clip share it."""
    numbers: dict[str, int | None] = {}
    order = clips.worst_first()
    room, left_out = most, 0
    progress.start(len(order), "clips", "frames")
    for place in order:
        progress.advance()
        name = clips.media[place][0] if clips.media[place] else ""
        if name not in numbers and room > 0:
            strip = _strip(frames(name))
            numbers[name] = None if strip is None else len(clips.pictures)
            if strip is not None:
                clips.pictures.append(_data_uri("jpeg", strip))
                room -= len(clips.pictures[-1])
        if (number := numbers.get(name)) is not None:
            clips.items[place]["th"] = number
        left_out += name not in numbers
    progress.finish()
    return Drawn(len(order) - left_out, left_out)


def add_masks(
    clips: ClipList,
    samples: Mapping[int, MaskSample],
    predicted: Sequence[Callable[[str], Mask | None]],
    frames: Frames | None,
    progress: Progress,
    *,
    most: int = MOST_BYTES,
) -> Drawn:
    """Give items ``th``, for each frame its picture (or -1) and the overlay of every run (or -1), by number.

    ``predicted`` gives each run's mask of a frame by its clip's id.
    """
    order = clips.worst_first()
    room, left_out = most, 0
    progress.start(len(order), "clips", "masks")
    for place in order:
        progress.advance()
        if room <= 0:
            left_out += 1
            continue
        item = clips.items[place]
        sample = samples.get(item["row"])
        shown = []
        for number, clip in enumerate(clips.media[place]):
            truth = _unpack(sample.masks[number]) if sample and number < len(sample.masks) else None
            found = [of_run(clip) for of_run in predicted]
            pictures = frames(clip) if frames else []
            parts = [_frame(pictures[0]) if pictures else None, *(_overlay(truth, one) for one in found)]
            kinds = ["jpeg", *["png"] * len(found)]
            numbers = []
            for kind, content in zip(kinds, parts, strict=True):
                numbers.append(-1 if content is None else len(clips.pictures))
                if content is not None:
                    clips.pictures.append(_data_uri(kind, content))
                    room -= len(clips.pictures[-1])
            shown.append(numbers)
        item["th"] = shown
    progress.finish()
    return Drawn(len(order) - left_out, left_out)


def mask_of_png(content: bytes | None) -> Mask | None:
    """The mask that evaluation wrote, ``[H, W]``; None for what is no picture of that kind."""
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            return np.asarray(picture.convert("L")) > 127 if max(picture.size) <= 1024 else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _unpack(packed: bytes) -> Mask | None:
    """A square mask of its packed bits; None where there is none."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    side = int(np.sqrt(len(bits)))
    return bits.reshape(side, side).astype(np.bool_) if side and side * side == len(bits) else None


def _strip(pictures: Sequence[Picture]) -> bytes | None:
    """At most ten frames side by side, each as wide as all others."""
    if not pictures:
        return None
    chosen = [
        pictures[place] for place in np.linspace(0, len(pictures) - 1, min(len(pictures), STRIP_FRAMES)).astype(int)
    ]
    height, width = chosen[0].shape[:2]
    tile = max(1, round(STRIP_HEIGHT * min(width / height, _WIDEST)))
    strip = Image.new("RGB", (tile * len(chosen), STRIP_HEIGHT))
    for place, picture in enumerate(chosen):
        strip.paste(Image.fromarray(picture).resize((tile, STRIP_HEIGHT), reducing_gap=2.0), (place * tile, 0))
    return _jpeg(strip)


def _frame(picture: Picture) -> bytes:
    """One frame in the square that masks have, as the backbones see it."""
    return _jpeg(Image.fromarray(picture).resize((FRAME_SIDE, FRAME_SIDE), reducing_gap=2.0))


def _overlay(truth: Mask | None, predicted: Mask | None) -> bytes | None:
    """What is hit, missed and too much, over a frame; without the truth everything predicted is a hit."""
    if predicted is None:
        return None
    size = (FRAME_SIDE, FRAME_SIDE)
    found, there = (_resized(mask, size) for mask in (predicted, predicted if truth is None else truth))
    down, across = np.indices(found.shape)
    weak = ((across - down) % _STRIPE >= _STRIPE // 2, (across + down) % _STRIPE >= _STRIPE // 2)
    states = np.where(there & found, 1, np.where(there, 2 + weak[0], np.where(found, 4 + weak[1], 0)))
    picture = Image.fromarray(states.astype(np.uint8), mode="P")
    picture.putpalette([part for colour in _PALETTE for part in colour[:3]])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", bits=4, transparency=bytes(colour[3] for colour in _PALETTE), optimize=True)
    return buffer.getvalue()


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
