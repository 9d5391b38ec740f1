"""A store that is filled while heads train: clips are written as they are computed, and read from then on.

It is the store of an extraction, by its writer, and stays unfinished: an extraction with the same options adds the
clips that training does not touch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from mettle_cache.pipelines.extract.encoding import Codes
from mettle_cache.pipelines.extract.extractor import PreparedClip
from mettle_cache.pipelines.extract.memory import SourceMemory
from mettle_cache.pipelines.extract.stream import WRITERS
from mettle_cache.store.reading.token_store import TokenStore
from mettle_cache.store.writing.writer import StoreReport, StoreWriter

# clips that wait to be written: their codes are held until then
MOST_WAITING = 32
# opening the store anew reads all its records: worth it when so many clips, or an eighth of them, have been added
LEAST_ADDED = 64


@dataclass(frozen=True)
class Step:
    """What a batch takes: clips to compute, clips to read, and whether the store is opened anew before it is read."""

    compute: tuple[int, ...]
    read: tuple[int, ...]
    reopen: bool = False


def plan_steps(order: Sequence[Sequence[int]], stored: set[int]) -> list[Step]:
    """How each batch gets its clips: those that the store had are read, others computed.

    A clip that comes again is read when the store has been opened anew since; until that pays it is computed again.
    """
    known, added, steps = set(stored), set[int](), []
    for clips in order:
        wanted = dict.fromkeys(clips)
        again = any(clip in added for clip in wanted)
        reopen = again and len(added) >= max(LEAST_ADDED, len(known) // 8)
        if reopen:
            known |= added
            added = set()
        read = tuple(clip for clip in wanted if clip in known)
        compute = tuple(clip for clip in wanted if clip not in known)
        added |= {*compute}
        steps.append(Step(compute, read, reopen))
    return steps


@dataclass
class Filling:
    """The writer of a store and a reader of what it has written; its calls come from one thread."""

    writer: StoreWriter
    memory: SourceMemory
    _executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WRITERS, "write"))
    _waiting: deque[tuple[int, PreparedClip, Future[int]]] = field(default_factory=deque)
    _written: set[int] = field(default_factory=set)
    _store: TokenStore | None = None
    _broken: BaseException | None = None

    def add(self, clip: int, codes: Codes, prepared: PreparedClip) -> None:
        """Write a clip in a thread, unless that has been done; waits where many are waiting already.

        Raises
        ------
        StoreError, NoRoomError
            An earlier clip could not be written; what is committed stays.
        """
        if clip in self._written:
            return
        self._written.add(clip)
        write = self._executor.submit(self.writer.write_clip, clip, codes, source=prepared.source)
        self._waiting.append((clip, prepared, write))
        while len(self._waiting) > MOST_WAITING:
            self._settle_one()

    def settle(self) -> None:
        """Wait until all that was added is committed. Raises as :meth:`add`."""
        while self._waiting:
            self._settle_one()

    def leave_out(self, failed: Mapping[str, str]) -> None:
        """Record clips as failed."""
        index = {clip: number for number, clip in enumerate(self.writer.clips)}
        for clip, reason in failed.items():
            self.writer.fail_clip(index[clip], reason)

    def reader(self, *, anew: bool) -> TokenStore:
        """The store, which has the clips that were committed when it was opened; ``anew``: now."""
        if self._store is None or anew:
            if self._store is not None:
                self._store.close()
            self._store = TokenStore.open(self.writer.path, allow_unfinished=True)
        return self._store

    @property
    def has_grown(self) -> bool:
        """Whether clips were written since the reader was opened."""
        if self._store is None:
            return True
        return any(self._store.statuses[clip] != "ok" for clip in self._written)

    def close(self) -> StoreReport | None:
        """Give the store up, finished if no clip is lacking; None where a clip could not be written."""
        try:
            if self._broken is None:
                self.settle()
                return self.writer.finish()
            return None
        finally:
            self._executor.shutdown(wait=True)
            self.memory.close()
            if self._store is not None:
                self._store.close()
            # after an error the disk may be full: nothing is sealed then
            self.writer.__exit__(type(self._broken) if self._broken else None, self._broken, None)

    def _settle_one(self) -> None:
        clip, prepared, write = self._waiting.popleft()
        try:
            write.result()
        except BaseException as error:
            self._broken = error
            raise
        if prepared.look is not None:
            self.memory.remember(self.writer.clips[clip], prepared.look.lasting_stamp, prepared.source)
