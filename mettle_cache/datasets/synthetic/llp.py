"""A data set in LLP's layout, drawn and synthesised: for tests, on machines without any media.

Every video has one category, which is heard, seen, or both at times of their own. So weak labels tell what there is,
and only the media tell where and when.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mettle_cache.datasets.synthetic import scenes, sounds
from mettle_cache.datasets.synthetic.scenes import Shape, make_scene
from mettle_cache.datasets.synthetic.sounds import RATE, Sound, make_track
from mettle_cache.errors import UsageError

SECONDS = 10

CATEGORIES: dict[str, tuple[Shape, Sound]] = {
    "Dog": (scenes.RED_DISC, sounds.bursts),
    "Cello": (scenes.GREEN_SQUARE, sounds.tone),
    "Fire_alarm": (scenes.BLUE_TRIANGLE, sounds.chirps),
    "Blender": (scenes.WHITE_CROSS, sounds.rumble),
}
"""Four of the published names, each with a look and a sound."""

_KINDS = (("audio", "visual"), ("audio",), ("visual",))


@dataclass(frozen=True)
class _Video:
    """One video to be; the times are ``(start, end)`` in whole seconds, equal where there is nothing."""

    clip: str
    split: str
    category: str
    audio: tuple[int, int]
    visual: tuple[int, int]

    @property
    def filename(self) -> str:
        return f"{self.clip}_30_{30 + SECONDS}"


def write_demo_llp(root: Path, *, train: int = 24, val: int = 12, test: int = 12, seed: int = 0) -> None:
    """Write videos of ten seconds and the five annotation files under ``root``.

    The same seed and libraries give the same bytes. Annotations come last, so half a data set opens as none.

    Raises
    ------
    UsageError
        A folder that holds something, or an empty split.
    """
    counts = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 1:
        raise UsageError("each split of the demo data needs at least one video")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} is there already", hint="name a new folder, or remove that one")
    videos = _plan(counts, seed)
    for number, video in enumerate(videos):
        _write_media(root / "LLP_dataset", video, np.random.default_rng([seed, number]))
    _write_annotations(root, videos)


def _plan(counts: dict[str, int], seed: int) -> list[_Video]:
    """Videos of every split, categories and kinds in turn so that each split has all of them."""
    rng = np.random.default_rng([seed, sum(counts.values()), 3])
    videos: list[_Video] = []
    for split, count in counts.items():
        for number in range(count):
            # 8 bytes are 11 characters of the published ids' alphabet
            clip = base64.urlsafe_b64encode(rng.bytes(8)).decode().rstrip("=")
            kind = _KINDS[number // len(CATEGORIES) % len(_KINDS)]
            audio, visual = (_interval(rng) if modality in kind else (0, 0) for modality in ("audio", "visual"))
            videos.append(_Video(clip, split, list(CATEGORIES)[number % len(CATEGORIES)], audio, visual))
    return videos


def _interval(rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(4, SECONDS + 1))
    start = int(rng.integers(0, SECONDS - length + 1))
    return start, start + length


def _write_media(folder: Path, video: _Video, rng: np.random.Generator) -> None:
    shape, sound = CATEGORIES[video.category]
    scene = make_scene(rng)
    frames = folder / "frame" / video.clip
    frames.mkdir(parents=True)
    for second in range(SECONDS):
        shown = shape if video.visual[0] <= second < video.visual[1] else None
        scene.picture(shown, second + 0.5).save(frames / f"{second + 1:08d}.jpg", quality=90)
    (folder / "audio").mkdir(exist_ok=True)
    track = make_track(sound, *video.audio, SECONDS, rng)
    soundfile.write(folder / "audio" / f"{video.clip}.wav", track, RATE, subtype="PCM_16")


def _write_annotations(root: Path, videos: list[_Video]) -> None:
    for split, name in (("train", "train"), ("val", "val_pd"), ("test", "test_pd")):
        weak = [f"{video.filename}\t{video.category}" for video in videos if video.split == split]
        _write_lines(root / f"AVVP_{name}.csv", ["filename\tevent_labels", *weak])
    for modality in ("audio", "visual"):
        events = [
            f"{video.filename}\t{start}\t{end}\t{video.category}"
            for video, (start, end) in ((video, getattr(video, modality)) for video in videos)
            if video.split != "train" and start < end
        ]
        _write_lines(root / f"AVVP_eval_{modality}.csv", ["filename\tonset\toffset\tevent_labels", *events])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
