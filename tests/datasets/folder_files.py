"""A user's own folder, small: clips.csv, and drawn media as .mp4 or as .wav and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from mettle_cache.datasets.synthetic import scenes, sounds
from mettle_cache.datasets.synthetic.ave import write_mp4
from mettle_cache.datasets.synthetic.scenes import make_scene
from mettle_cache.datasets.synthetic.sounds import RATE, make_track

LOOKS = {"Dog": (scenes.RED_DISC, sounds.bursts), "Rain, heavy": (scenes.BLUE_TRIANGLE, sounds.rumble)}
FPS = 2


def write_media(root: Path, clip: str, label: str, start: int, end: int, seconds: int, *, as_video: bool) -> None:
    """One clip in which ``label`` is seen and heard in the seconds ``[start, end)``; nothing for background."""
    rng = np.random.default_rng(sum(clip.encode()))
    shape, sound = LOOKS.get(label, (None, sounds.tone))
    scene, track = make_scene(rng), make_track(sound, start, end, seconds, rng)

    def picture(time: float):
        return scene.picture(shape if start <= time < end else None, time)

    if as_video:
        write_mp4(root / f"{clip}.mp4", [picture((n + 0.5) / FPS) for n in range(seconds * FPS)], FPS, track, RATE)
        return
    (root / clip).mkdir()
    for second in range(seconds):
        picture(second + 0.5).save(root / clip / f"{second + 1}.jpg", quality=90)
    soundfile.write(root / f"{clip}.wav", track, RATE, subtype="PCM_16")


def write_folder(root: Path, seconds: int = 3, *, train: int = 4, val: int = 2, test: int = 2) -> list[str]:
    """A table and media of both kinds: labels in turn, the last test clip is background. Returns the table's lines."""
    root.mkdir(parents=True)
    rows = ["id,split,label,start,end"]
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            clip = f"{split}-{number}"
            label = list(LOOKS)[number % 2] if (split, number) != ("test", test - 1) else "background"
            times = {0: (0, seconds), 1: (1, seconds)}[number % 2] if label in LOOKS else (0, 0)
            write_media(root, clip, label, *times, seconds, as_video=number % 2 == 0)
            cells = "," if times in ((0, seconds), (0, 0)) else f"{times[0]},{times[1]}"
            rows.append(f'{clip},{split},"{label}",{cells}')
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return rows
