"""Where AVSBench keeps the files of a video (spec-avs.md 1.2); frames count from 1, as their file names do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mettle_cache.datasets.avsbench_tables import MS3_COLUMNS, S4_COLUMNS, VideoRow


@dataclass(frozen=True)
class Subset:
    """One of the two subsets. Patterns are relative to ``folder`` and are filled from a row; ``{k}`` is a frame."""

    table: str
    columns: tuple[str, ...]
    folder: str
    frames: str
    masks: str
    recordings: str
    waves: str

    def frame(self, root: Path, row: VideoRow, k: int) -> Path:
        return self._path(root, self.frames, row, k)

    def mask(self, root: Path, row: VideoRow, k: int) -> Path:
        return self._path(root, self.masks, row, k)

    def recording(self, root: Path, row: VideoRow) -> Path:
        """The 16 kHz file of one video."""
        return self._path(root, self.recordings, row)

    def wave_file(self, root: Path, row: VideoRow) -> Path:
        """The file that holds the 32 kHz sound of this video and others."""
        return self._path(root, self.waves, row)

    def _path(self, root: Path, pattern: str, row: VideoRow, k: int = 0) -> Path:
        return root / self.folder / pattern.format(split=row.split, category=row.category, video=row.video, k=k)


S4 = Subset(
    table="Single-source/s4_meta_data.csv",
    columns=S4_COLUMNS,
    folder="Single-source/s4_data",
    frames="visual_frames/{split}/{category}/{video}/{video}_{k}.png",
    masks="gt_masks/{split}/{category}/{video}/{video}_{k}.png",
    recordings="audio_wav/{split}/{category}/{video}.wav",
    waves="wave/{split}/{category}/AVS.npy",
)
MS3 = Subset(
    table="Multi-sources/ms3_meta_data.csv",
    columns=MS3_COLUMNS,
    folder="Multi-sources/ms3_data",
    frames="visual_frames/{video}/{video}.mp4_{k}.png",
    masks="gt_masks/{split}/{video}/{video}_{k}.png",
    recordings="audio_wav/{split}/{video}.wav",
    waves="wave/{split}/AVS.npy",
)
