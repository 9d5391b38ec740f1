"""AVSBench: which pixels sound, of one object (S4) or of several (MS3) (docs/protocols/avs.md, "Files on disk").

Nothing in Mettle's segmentation mixes seconds, so every frame with its second of sound is a clip of its own, and a
training video of S4, of which only the first frame has a mask, is stored as one frame. The masks travel with the
samples: training and evaluation need nothing but the store.

The peers normalise a picture and then resize it bicubically without antialiasing; the backbones here resize first. Such
a resize is linear and its weights sum to 1, so the two differ by rounding only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mettle_cache.datasets.avsbench_files import MS3, S4, Subset, VideoRow, read_videos
from mettle_cache.datasets.media.places import find_recordings
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, Clip, DatasetInfo, DatasetOption
from mettle_cache.datasets.textfile import Problems
from mettle_cache.errors import DatasetError
from mettle_cache.preprocessing import FbankPreprocessing, Preprocessing

if TYPE_CHECKING:
    from mettle_cache.datasets.avsbench_dataset import AvsbenchDataset

FRAMES = 5

SAMPLE_SCHEMA = pa.schema(
    [
        *SAMPLE_COLUMNS,
        ("category", pa.string()),
        ("clips", pa.list_(pa.string())),
        ("masks", pa.list_(pa.binary())),
    ]
)
"""``clip`` is the video, ``clips`` are its stored frames in order, and ``masks`` those of the first of them (packed
bits, :mod:`mettle_cache.datasets.avsbench_dataset`; no bytes for one that could not be read)."""

_PREPROCESSING = Preprocessing(
    final_norm=True,
    seconds_repeated=FRAMES,
    file_sound=True,
    fbank=FbankPreprocessing(window_seconds=1.0, frame_shift_ms=10.0, mean=-5.210531711578369, std=3.5918314456939697),
)


def open_s4(root: Path, *, train_frames: str = "1") -> AvsbenchDataset:
    """The single-source subset; ``train_frames`` is 1 or 5. Raises DatasetError: all that is wrong with the table."""
    return _open(S4_INFO, root, S4, train_frames=int(train_frames), train_masks=1)


def open_ms3(root: Path) -> AvsbenchDataset:
    """The multi-source subset. Raises DatasetError: all that is wrong with the table."""
    return _open(MS3_INFO, root, MS3, train_frames=FRAMES, train_masks=FRAMES)


S4_INFO = DatasetInfo(
    name="avs-s4",
    title="Audio-visual segmentation, one sounding object (AVSBench S4)",
    segments=1,
    default_root=Path("data/AVSBench_data"),
    layouts=(f"{S4.table} and {S4.folder}/{{visual_frames,gt_masks,wave or audio_wav}}/<split>/<category>/",),
    open=open_s4,
    preprocessing=_PREPROCESSING,
    media_segments=FRAMES,
    options=(
        DatasetOption(
            name="train_frames",
            choices=("1", str(FRAMES)),
            default="1",
            help="frames that are stored of a training video; only the first has a mask, TPAVI wants all",
        ),
    ),
)


MS3_INFO = DatasetInfo(
    name="avs-ms3",
    title="Audio-visual segmentation, several sounding objects (AVSBench MS3)",
    segments=1,
    default_root=Path("data/AVSBench_data"),
    layouts=(f"{MS3.table} and {MS3.folder}/{{visual_frames/<video>,gt_masks/<split>,wave or audio_wav/<split>}}/",),
    open=open_ms3,
    preprocessing=_PREPROCESSING,
    media_segments=FRAMES,
)


def _open(info: DatasetInfo, root: Path, subset: Subset, *, train_frames: int, train_masks: int) -> AvsbenchDataset:
    from mettle_cache.datasets.avsbench_dataset import AvsbenchDataset, FrameSource

    table = root / subset.table
    if not table.exists():
        raise DatasetError(f"there is no {subset.table} in {root}", hint=_root_hint(root, subset))
    problems = Problems()
    rows = read_videos(table, subset.columns, problems)
    problems.raise_if_any(root)
    stored = {"train": train_frames, "val": FRAMES, "test": FRAMES}
    masked = {"train": train_masks, "val": FRAMES, "test": FRAMES}
    sources = [
        FrameSource(
            clip=Clip(f"{row.video}_{k}", subset.frame(root, row, k), sound, segment=k - 1),
            place=place,
            key=f"{row.video}.wav",
            recording=own,
            mask=subset.mask(root, row, k) if k <= masked[row.split] else None,
            where=f"{table.name}:{row.line}",
        )
        for place, row, (sound, own) in zip(range(len(rows)), rows, _sounds(root, rows, subset), strict=True)
        for k in range(1, stored[row.split] + 1)
    ]
    return AvsbenchDataset(
        name=info.name,
        root=root,
        schema=SAMPLE_SCHEMA,
        rows=_columns(rows),
        sources=tuple(sources),
        media_segments=FRAMES,
        pattern=f"{subset.folder}/{subset.frames}",
    )


def _sounds(root: Path, rows: list[VideoRow], subset: Subset) -> list[tuple[Path, Path]]:
    """The sound of each row, which is the file of many videos where there is one, and its own recording."""
    waves = [subset.wave_file(root, row) for row in rows]
    there = {path for path in set(waves) if path.exists()}
    recordings = find_recordings([subset.recording(root, row) for row in rows])
    return [(wave if wave in there else own, own) for wave, own in zip(waves, recordings, strict=True)]


def _columns(rows: list[VideoRow]) -> dict[str, list[object]]:
    return {
        "row": list(range(len(rows))),
        "clip": [row.video for row in rows],
        "split": [row.split for row in rows],
        "category": [row.category for row in rows],
    }


def _root_hint(root: Path, subset: Subset) -> str:
    inside = sorted(root.glob(f"*/{subset.table}")) + sorted(root.parent.glob(subset.table))
    if inside:
        return f"--root {inside[0].parents[1]}"
    return f"give the folder that holds {subset.table} with --root"
