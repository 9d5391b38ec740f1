"""Data sets that the composing program writes from real photographs and recordings, in both layouts of the field."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset

_REPOSITORY = Path(__file__).parents[2]
REALDATA = Path(os.environ.get("METTLE_REALDATA", _REPOSITORY.parent / "shared" / "realdata"))

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (REALDATA / "compose.py").exists(),
        reason="the composing program is not here; METTLE_REALDATA names its folder",
    ),
]
COUNTS = {"train": 8, "val": 4, "test": 6}


def _compose(out: Path, *options: str) -> Path:
    counts = [word for split, count in COUNTS.items() for word in (f"--{split}", str(count))]
    command = [sys.executable, str(REALDATA / "compose.py"), "ave", "--out", str(out), *counts, *options]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.mark.parametrize("options", [(), ("--no-header",), ("--layout", "mp4")])
def test_everything_composed_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    dataset = open_dataset("ave", _compose(tmp_path / "AVE", *options))
    assert dataset.samples.num_rows == len(dataset.clips) == sum(COUNTS.values())
    assert len(dataset.vocabulary["categories"]) == 28
    assert dataset.problems(deep=True) == []
    for clip in dataset.clips:
        frames = np.stack(dataset.load_frames(clip))
        assert (frames.shape, frames.dtype) == ((10, 256, 256, 3), np.uint8)
        assert frames.std() > 5
        samples = dataset.load_waveform(clip, 32_000)
        assert abs(len(samples) - 320_000) < 2048
        assert 1e-4 < np.abs(samples).max() <= 1.5


def test_both_layouts_show_and_sound_the_same(tmp_path: Path) -> None:
    """The pictures are taken at the same moments and the sound is the same, but for what the codecs lose."""
    frames = open_dataset("ave", _compose(tmp_path / "frames"))
    videos = open_dataset("ave", _compose(tmp_path / "videos", "--layout", "mp4"))
    assert frames.samples.equals(videos.samples)
    for ours, theirs in zip(frames.clips, videos.clips, strict=True):
        pictures = np.stack(frames.load_frames(ours)).astype(float), np.stack(videos.load_frames(theirs)).astype(float)
        assert np.abs(pictures[0] - pictures[1]).mean() < 12
        sound, decoded = frames.load_waveform(ours, 32_000), videos.load_waveform(theirs, 32_000)[:320_000]
        assert np.corrcoef(sound, decoded)[0, 1] > 0.9
