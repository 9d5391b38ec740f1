"""Files that show a task's predictions, and the frames to draw them on, which come from the data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mettle_cache.datasets import Clip, Dataset, default_root, open_dataset
from mettle_cache.errors import MediaError, MettleError, UsageError
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.writing.durable import disk_errors

if TYPE_CHECKING:
    from mettle_cache.store.reading.token_source import TokenSource


class StoredFrames:
    """Pictures of a store's clips, from the data set that the store was made of, opened at the first call.

    Without ``root`` the data set's default folder is taken, if it exists. Without media there are no pictures.
    """

    def __init__(self, store: TokenSource, root: Path | None, progress: Progress) -> None:
        self._store, self._root, self._progress = store, root, progress
        self._opened: tuple[Dataset, dict[str, Clip]] | None = None
        self._tried = False

    def __call__(self, clip: str) -> NDArray[np.uint8] | None:
        """The clip's first picture, RGB ``[H, W, 3]``, or None.

        Raises
        ------
        UsageError, DatasetError
            The root that the user has named is no such data set.
        """
        self.open()
        if self._opened is None or clip not in self._opened[1]:
            return None
        dataset, clips = self._opened
        try:
            return dataset.load_frames(clips[clip])[0]
        except MediaError as error:
            self._progress.note(f"no picture of {clip}: {error.message}")
            return None

    def open(self) -> None:
        """Open the data set, which otherwise the first picture does; raises as that does."""
        if not self._tried:
            self._tried = True
            self._opened = self._open()

    def _open(self) -> tuple[Dataset, dict[str, Clip]] | None:
        name, options = self._store.dataset, self._store.key["extraction"].get("options", {})
        computed = self._store.computed
        known = default_root(name) if computed is None else Path(computed["root"])
        try:
            dataset = open_dataset(name, self._root or known, options)
        except MettleError as error:
            if self._root is not None:
                raise
            self._progress.note(
                f"predictions are drawn without their frames ({error.message}); --root names the data set"
            )
            return None
        return dataset, {clip.id: clip for clip in dataset.clips}


def write_artefacts(files: Iterable[tuple[str, bytes]], folder: Path) -> list[Path]:
    """Put files in the place of all that ``folder`` holds; what lies in it then, empty where there are no files.

    A reader finds what was there or what is new, never some of each. Whatever goes wrong, what was there stays.

    Raises
    ------
    UsageError
        A file's name leads out of the folder.
    NoRoomError, StoreError
        The disk is full, or refuses.
    """
    staged, old = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    remove_artefacts(staged)
    try:
        for name, content in files:
            path = staged / name
            if not path.resolve().is_relative_to(staged.resolve()):
                raise UsageError(f"{name!a} would lie outside {folder}")
            with disk_errors(path, len(content)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        if not staged.exists():
            return []
        remove_artefacts(old)
        with disk_errors(folder, needed=0):
            if os.path.lexists(folder):
                folder.rename(old)
            staged.rename(folder)
    finally:
        remove_artefacts(staged)
    remove_artefacts(old)
    return sorted(folder.iterdir())


def remove_artefacts(folder: Path) -> None:
    """Remove a folder of artefacts, if it is there."""
    if os.path.lexists(folder):
        with disk_errors(folder, needed=0):
            shutil.rmtree(folder)
