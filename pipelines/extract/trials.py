"""Short trials of what an extraction does beside its forward passes: decoding media, and writing to the disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from mettle_cache.errors import MediaError
from mettle_cache.pipelines.extract.extractor import Extractor
from mettle_cache.pipelines.extract.precision import chosen_clips
from mettle_cache.pipelines.extract.stream import reproducible_passes
from mettle_cache.pipelines.progress import Progress
from mettle_cache.store.writing.write_speed import WriteSpeed, measure_write_speed

# long enough for some clips a core
DECODING_SECONDS = 2.0
# a default test of the disk is this long and no larger, and no smaller than what is read
WRITING_SECONDS, MOST_WRITTEN, LEAST_WRITTEN = 3.0, 4 * 10**9, 128 << 20

MB = 10**6


def try_disk(folder: Path, *, store_bytes: int, free: int, chosen: int | None, progress: Progress) -> WriteSpeed | None:
    """Write ``chosen`` bytes, or by default for some seconds; None where that has no room.

    Raises
    ------
    NoRoomError, StoreError
        The disk has no room for what was chosen, or cannot be written.
    """
    nbytes = chosen or bytes_to_write(store_bytes, free)
    if not nbytes:
        return None
    progress.start(max(1, nbytes // MB), "MB", f"write to the disk of {folder}")
    try:
        return measure_write_speed(
            folder,
            nbytes=nbytes,
            seconds=None if chosen else WRITING_SECONDS,
            advance=lambda piece: progress.advance(piece // MB),
        )
    finally:
        progress.finish()


def bytes_to_write(store_bytes: int, free: int) -> int:
    """How much the default test of the disk writes at most; 0 where there is no room for one."""
    wanted = min(MOST_WRITTEN, free // 4, max(store_bytes, LEAST_WRITTEN))
    return wanted if wanted >= LEAST_WRITTEN else 0


def measure_decoding(extractor: Extractor, *, seconds: float = DECODING_SECONDS) -> float | None:
    """Clips/s that all cores decode and preprocess, from about ``seconds`` of it; None where no clip can be read.

    The first clip is not counted: it loads libraries.
    """
    dataset = extractor.dataset
    order, _ = chosen_clips((clip.id for clip in dataset.clips), dataset.segments)
    places = {clip.id: index for index, clip in enumerate(dataset.clips)}
    with reproducible_passes(extractor.device):
        clips = (places[name] for name in order)
        if not any(_readable(extractor, index) for index in clips):
            return None
        return _time_decoding(extractor, [places[name] for name in order], seconds)


def _time_decoding(extractor: Extractor, clips: Sequence[int], seconds: float) -> float | None:
    def forever() -> Iterator[int]:
        while True:
            yield from clips

    waiting, lock, ends = forever(), Lock(), list[float]()
    started = time.perf_counter()

    def decode() -> None:
        while True:
            with lock:
                index = next(waiting)
            if _readable(extractor, index):
                ends.append(time.perf_counter() - started)
            if time.perf_counter() - started > seconds:
                return

    with ThreadPoolExecutor(extractor.cores) as decoders:
        for one in [decoders.submit(decode) for _ in range(extractor.cores)]:
            one.result()
    return len(ends) / max(ends) if ends else None


def _readable(extractor: Extractor, index: int) -> bool:
    try:
        extractor.prepare(index)
    except MediaError:
        return False
    return True
