"""Whether media are still those that a store's clips were made of.

A commit holds the digest of the files that its clip was decoded from. Reading all media again at every start would take
long, so a clip whose files have the names, sizes and times that they had when they were last read counts as the same
(:mod:`mettle_cache.pipelines.extract.memory`); every other one is read and compared by its digest. So a file that was
touched, copied or moved to another disk has not changed, and one that was replaced has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mettle_cache.datasets import Clip, Dataset
from mettle_cache.datasets.boundary import clip_errors
from mettle_cache.datasets.media.fault import MediaFileError, require_file
from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.report.units import format_bytes
from mettle_cache.store.format.digests import digest_of

THREADS = min(16, 2 * (os.cpu_count() or 1))
# a file that is written twice within one tick of its file system's clock has one time; FAT's ticks are the longest
TICK_NANOSECONDS = 2_000_000_000

_T = TypeVar("_T")


@dataclass(frozen=True)
class Look:
    """A clip's files from outside: ``stamp`` is a digest of their names, sizes and times, ``nbytes`` their size.

    ``settled`` says that they were last written so long ago that another content would have another stamp.
    """

    stamp: str
    nbytes: int
    settled: bool

    @property
    def lasting_stamp(self) -> str:
        """The stamp to be remembered: that of no file where another content could come to have the same."""
        return self.stamp if self.settled else ""


@dataclass(frozen=True)
class Comparison:
    """Media beside the digests of a store, by clip id.

    Attributes
    ----------
    same, changed
        Clips whose media have the store's digest, and others with what is to be said of them.
    missing
        Clips whose media are not there: nothing can be said of them. Media may be deleted once their clips are stored.
    """

    same: tuple[str, ...]
    changed: Mapping[str, str]
    missing: tuple[str, ...]


def look_at(dataset: Dataset, clip: Clip) -> Look:
    """Look at a clip's files without reading them. Raises MediaError for one that is missing or empty."""
    files: list[tuple[object, ...]] = []
    newest = nbytes = 0
    with clip_errors(clip.frames, dataset.root):
        statuses = [(path, require_file(path)) for path in dataset.source_files(clip)]
    for path, status in statuses:
        # a file that was put in another one's place may have its size and time, but not its number or time of change
        times = (status.st_mtime_ns, status.st_ctime_ns)
        files.append((str(path).removeprefix(f"{dataset.root}{os.sep}"), status.st_size, status.st_ino, *times))
        newest, nbytes = max(newest, *times), nbytes + status.st_size
    return Look(digest_of(files), nbytes, newest + TICK_NANOSECONDS < time.time_ns())


@contextmanager
def watch(dataset: Dataset, clip: Clip) -> Iterator[Look]:
    """Look at a clip's files before they are read, and again afterwards.

    Raises
    ------
    MediaError
        A file is missing or empty, or they changed in between: what was read may be of both.
    """
    before = look_at(dataset, clip)
    yield before
    if look_at(dataset, clip).stamp != before.stamp:
        raise MediaError(f"{clip.id}: its files changed while they were read", hint="run the same command again")


def compare_sources(
    sources: Mapping[str, str],
    dataset: Dataset,
    memory: SourceMemory,
    progress: Progress,
    *,
    read_all: bool = False,
) -> Comparison:
    """Compare a data set's media with the digests ``sources`` that a store has of them, by clip id.

    Files that look as they did when they were last read are believed to hold what they held, unless ``read_all`` is
    set. The memory takes note of those that are read. Clips that the data set does not have are missing.
    """
    clips = [clip for clip in dataset.clips if clip.id in sources]
    now: dict[str, str | MediaError] = {}
    doubtful: dict[Clip, Look] = {}
    for clip, look in _in_threads(partial(look_at, dataset), clips):
        known = None if isinstance(look, MediaError) or read_all else memory.recall(clip.id, look.stamp)
        if isinstance(look, MediaError):
            now[clip.id] = look
        elif known is None:
            doubtful[clip] = look
        else:
            now[clip.id] = known
    now |= _read(doubtful, dataset, memory, progress)
    return _sort_out(sources, clips, now, dataset.root)


def _read(
    doubtful: Mapping[Clip, Look], dataset: Dataset, memory: SourceMemory, progress: Progress
) -> dict[str, str | MediaError]:
    """The digest of each clip's media, or why there is none."""
    if not doubtful:
        return {}
    size = format_bytes(sum(look.nbytes for look in doubtful.values()))
    progress.start(len(doubtful), "clips", f"compare {size} of media with the store")
    now: dict[str, str | MediaError] = {}
    with closing(_in_threads(partial(_digest_now, dataset), doubtful)) as outcomes:
        for clip, outcome in outcomes:
            progress.advance(1, nbytes=doubtful[clip].nbytes)
            if isinstance(outcome, MediaError):
                now[clip.id] = outcome
                continue
            now[clip.id], look = outcome
            memory.remember(clip.id, look.lasting_stamp, outcome[0])
    progress.finish()
    memory.close()
    return now


def _digest_now(dataset: Dataset, clip: Clip) -> tuple[str, Look]:
    with watch(dataset, clip) as look, clip_errors(clip.frames, dataset.root):
        return dataset.source_digest(clip), look


def _sort_out(
    sources: Mapping[str, str], clips: Iterable[Clip], now: Mapping[str, str | MediaError], root: Path
) -> Comparison:
    same, changed, missing = [], {}, [clip for clip in sources if clip not in now]
    for clip in clips:
        found = now[clip.id]
        if found == sources[clip.id]:
            same.append(clip.id)
        elif not isinstance(found, MediaError):
            places = dict.fromkeys(os.path.relpath(path, root) for path in (clip.frames, clip.audio))
            changed[clip.id] = f"another content in {' or '.join(places)}"
        elif _is_gone(clip, found):
            missing.append(clip.id)
        else:
            changed[clip.id] = found.message.replace(f"{root}{os.sep}", "")
    return Comparison(tuple(same), changed, tuple(missing))


def _is_gone(clip: Clip, error: MediaError) -> bool:
    """Whether a clip's media cannot be read because some of them were taken away, not because they are broken."""
    paths = [error.path] if isinstance(error, MediaFileError) else [clip.frames, clip.audio]
    return any(not path.exists() or (path.is_dir() and not any(path.iterdir())) for path in paths)


def _in_threads(
    function: Callable[[Clip], _T], clips: Iterable[Clip]
) -> Generator[tuple[Clip, _T | MediaError], None, None]:
    """What the function gives for each clip; what is left is dropped when nobody wants it any more."""

    def attempt(clip: Clip) -> tuple[Clip, _T | MediaError]:
        try:
            return clip, function(clip)
        except MediaError as error:
            return clip, error

    executor = ThreadPoolExecutor(THREADS)
    try:
        yield from executor.map(attempt, clips)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
