"""What is checked before any extraction starts: that the media are there, and that the disk has room."""

from __future__ import annotations

import shutil
from pathlib import Path

from mettle_cache.datasets import Dataset, MediaProblem
from mettle_cache.errors import DatasetError, NoRoomError, StoreCorruptError, StoreMissingError
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.store.writing.locks import part_range
from mettle_cache.store.writing.writer import StoreWriter

LISTED = 20
# what the file system needs for itself
ROOM_MARGIN = 1.02


def check_room(out: Path, needed: int) -> None:
    """Refuse to begin what the disk of ``out`` cannot hold.

    Raises
    ------
    NoRoomError
        Fewer than ``needed`` bytes, and a margin for the file system, are free.
    """
    free = free_bytes(out)
    if needed * ROOM_MARGIN > free:
        raise NoRoomError(
            f"{out} still needs {format_bytes(needed * ROOM_MARGIN)}, but {format_bytes(free)} are free there",
            hint="see what other choices take: `mettle plan`; or give another disk with --out, fewer --layers, "
            "or --codec int4",
        )


def free_bytes(path: Path) -> int:
    """What a user may still write to the disk that ``path`` is, or will be, on."""
    return int(shutil.disk_usage(disk_folder(path)).free)


def disk_folder(path: Path) -> Path:
    """The folder nearest to ``path``, itself or above it, that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def find_missing(dataset: Dataset, config: ExtractConfig, out: Path) -> dict[str, str]:
    """Clip id to reason, of the clips that this run should extract and that cannot be read; see ``--skip-missing``.

    Media may be deleted once their clips are in the store, so only what is still to be extracted counts.

    Raises
    ------
    DatasetError
        There are such clips, and ``skip_missing`` is not set; lists them all up to a screenful.
    """
    mine = [dataset.clips[index].id for index in part_range(config.part, len(dataset.clips))]
    try:
        with StoreWriter.join(out) as writer:
            mine = [writer.clips[index] for index in writer.pending(config.part)]
    except (StoreMissingError, StoreCorruptError):
        pass  # nothing to go on with; create_or_resume says what there is to say
    found: dict[str, list[MediaProblem]] = {}
    for problem in dataset.problems(deep=True):
        found.setdefault(problem.clip, []).append(problem)
    missing = {clip: found[clip] for clip in mine if clip in found}
    if missing and not config.skip_missing:
        lines = [str(problem) for problems in missing.values() for problem in problems]
        more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise DatasetError(
            "\n  - ".join(
                (f"{len(missing)} of {len(mine)} clips of {dataset.root} cannot be read:", *lines[:LISTED], *more)
            ),
            hint="restore these files, or go on without them: --skip-missing (the accuracy is then not comparable)",
        )
    return {clip: "; ".join(f"{_under(dataset, p)}: {p.what}" for p in problems) for clip, problems in missing.items()}


def _under(dataset: Dataset, problem: MediaProblem) -> Path:
    """The problem's file without the data set's own place, which must not change a store's bytes."""
    root = dataset.root
    return problem.path.relative_to(root) if problem.path.is_relative_to(root) else problem.path
