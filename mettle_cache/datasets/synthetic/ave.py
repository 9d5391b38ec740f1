"""A data set in AVE's layout, drawn and synthesised: for the demo and for tests, on machines without any media.

Each category is one shape and one sound; both are there in the seconds of the event and in no other. So a head can
learn it in a minute, and a head that does worse than that has a fault.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from mettle_cache.datasets.synthetic import scenes, sounds
from mettle_cache.datasets.synthetic.scenes import Scene, Shape, make_scene
from mettle_cache.datasets.synthetic.sounds import RATE, Sound, make_track
from mettle_cache.errors import UsageError

LayoutName = Literal["frames", "mp4", "mixed"]

SECONDS = 10
FPS = 4
"""Pictures a second of an .mp4; the frames layout has one, as the published frames."""

# samples of an AAC frame
_AAC_FRAME = 1024

CATEGORIES: dict[str, tuple[Shape, Sound]] = {
    "Red disc, steady tone": (scenes.RED_DISC, sounds.tone),
    "Green square, chirps": (scenes.GREEN_SQUARE, sounds.chirps),
    "Blue triangle (noise bursts)": (scenes.BLUE_TRIANGLE, sounds.bursts),
    "Yellow ring, ticking": (scenes.YELLOW_RING, sounds.ticks),
    "White cross, rumble": (scenes.WHITE_CROSS, sounds.rumble),
}


@dataclass(frozen=True)
class _Event:
    """One clip to be: its id, its split, and the category that is there in the seconds ``[start, end)``."""

    clip: str
    split: str
    category: str
    start: int
    end: int

    @property
    def line(self) -> str:
        return f"{self.category}&{self.clip}&good&{self.start}&{self.end}"


def write_demo_ave(
    root: Path, *, train: int = 40, val: int = 10, test: int = 20, seed: int = 0, layout: LayoutName = "frames"
) -> None:
    """Write ``train`` + ``val`` + ``test`` clips of ten seconds and their annotations under ``root``.

    Parameters
    ----------
    root
        A folder that is empty or does not exist yet.
    layout
        ``frames``: frames/<id>/%08d.jpg and wave/<id>.wav; ``mp4``: AVE/<id>.mp4; ``mixed``: the one and the other in
        turn. The same seed and libraries give the same bytes. Annotations come last, so half a data set opens as none.

    Raises
    ------
    UsageError
        A folder that holds something, an empty split, or an unknown layout.
    """
    counts = {"train": train, "val": val, "test": test}
    if layout not in ("frames", "mp4", "mixed"):
        raise UsageError(f"unknown layout {layout!r}", hint="one of: frames, mp4, mixed")
    if min(counts.values()) < 1:
        raise UsageError("each split of the demo data needs at least one clip")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} is there already", hint="name a new folder, or remove that one")
    events = _plan(counts, seed)
    for number, event in enumerate(events):
        as_video = layout == "mp4" or (layout == "mixed" and number % 2 == 1)
        _write_media(root, event, np.random.default_rng([seed, number]), as_video=as_video)
    _write_annotations(root, events, seed)


def _plan(counts: dict[str, int], seed: int) -> list[_Event]:
    """Events of every split, categories in turn so that each split is balanced; 4 in 10 fill the whole clip."""
    rng = np.random.default_rng([seed, sum(counts.values()), 1])
    events: dict[str, _Event] = {}
    for split, count in counts.items():
        total = len(events) + count
        while len(events) < total:
            # 8 bytes are 11 characters of the published ids' alphabet
            clip = base64.urlsafe_b64encode(rng.bytes(8)).decode().rstrip("=")
            length = SECONDS if rng.random() < 0.4 else int(rng.integers(2, SECONDS))
            start = int(rng.integers(0, SECONDS - length + 1))
            category = list(CATEGORIES)[len(events) % len(CATEGORIES)]
            events.setdefault(clip, _Event(clip, split, category, start, start + length))
    return list(events.values())


def _write_media(root: Path, event: _Event, rng: np.random.Generator, *, as_video: bool) -> None:
    shape, sound = CATEGORIES[event.category]
    scene = make_scene(rng)
    track = make_track(sound, event.start, event.end, SECONDS, rng)
    if as_video:
        (root / "AVE").mkdir(parents=True, exist_ok=True)
        pictures = (_picture(scene, shape, event, (index + 0.5) / FPS) for index in range(SECONDS * FPS))
        write_mp4(root / "AVE" / f"{event.clip}.mp4", pictures, FPS, track, RATE)
        return
    folder = root / "frames" / event.clip
    folder.mkdir(parents=True)
    for second in range(SECONDS):
        _picture(scene, shape, event, second + 0.5).save(folder / f"{second + 1:08d}.jpg", quality=90)
    (root / "wave").mkdir(exist_ok=True)
    soundfile.write(root / "wave" / f"{event.clip}.wav", track, RATE, subtype="PCM_16")


def _picture(scene: Scene, shape: Shape, event: _Event, time: float) -> Image.Image:
    return scene.picture(shape if event.start <= time < event.end else None, time)


def _write_annotations(root: Path, events: list[_Event], seed: int) -> None:
    """The published files: rows in mixed order, split files in another, a header, the categories of this set."""
    rng = np.random.default_rng([seed, len(events), 2])
    rows = [events[index] for index in rng.permutation(len(events))]
    _write_lines(root / "categories.txt", list(CATEGORIES))
    for split in ("train", "val", "test"):
        _write_lines(root / f"{split}Set.txt", [event.line for event in events if event.split == split])
    _write_lines(
        root / "Annotations.txt",
        ["Category&VideoID&Quality&StartTime&EndTime", *(event.line for event in rows)],
    )


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_mp4(path: Path, pictures: Iterable[Image.Image], fps: int, track: NDArray[np.float32], rate: int) -> None:
    """Write pictures and a sound track, the same bytes for the same input.

    The codecs are H.264, or MPEG-4 where this build of FFmpeg has no encoder for it, and AAC. ``track`` holds samples
    ``[n]`` of one channel at ``rate`` Hz.
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
        for at in range(0, len(track), _AAC_FRAME):
            piece = av.AudioFrame.from_ndarray(track[None, at : at + _AAC_FRAME], format="fltp", layout="mono")
            piece.sample_rate, piece.pts = rate, at
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
