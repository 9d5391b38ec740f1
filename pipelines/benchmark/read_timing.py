"""Readers against the raw-read limit of the same bytes, in one cache state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mettle_cache.pipelines.benchmark.limits import RawReader
from mettle_cache.pipelines.benchmark.pagecache import cached_fraction, evict
from mettle_cache.pipelines.benchmark.reading import BATCH, THREADS, Deliver, Reader, consume
from mettle_cache.pipelines.benchmark.table import Row, measured
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Variant, time_interleaved

# warm passes over a store in one measurement of ours: new memory must not weigh more than it does in an epoch
PASSES = 4
# a page or two of a file may always stay, or go
FEW_PAGES = 0.02


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A store to be read: the clips in random order, its files in that order, and the bytes of its tokens.

    ``batch`` clips are delivered at once.
    """

    codec: str
    order: Sequence[int]
    files: Sequence[Path]
    nbytes: int
    batch: int = BATCH

    @property
    def batch_bytes(self) -> int:
        return self.batch * self.nbytes // len(self.order)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something that reads a subject: a reader, or (None) raw reads into ``memory`` bytes.

    ``passes`` is how often one warm measurement reads the whole. ``is_limit`` marks the denominator of its codec.
    """

    name: str
    subject: Subject
    reader: Reader | None = None
    passes: int = 1
    memory: int = 0
    is_limit: bool = False
    note: str = ""

    def files(self) -> Sequence[Path]:
        return self.subject.files if self.reader is None else self.reader.files()


@dataclass(frozen=True)
class Standings:
    """How a contest ended: the limits' rows, the others', and notes where the page cache was not as it should be."""

    limits: tuple[Row, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Standings) -> Standings:
        return Standings(self.limits + other.limits, self.rows + other.rows, self.notes + other.notes)


def raw_reads(subject: Subject) -> list[Contestant]:
    """The limit, and the same into memory that the processor's cache can hold, which no batch could."""
    codec = subject.codec
    return [
        Contestant(
            name=f"raw reads, {codec}",
            subject=subject,
            passes=PASSES,
            memory=subject.batch_bytes,
            is_limit=True,
            note=f"{THREADS} preadv at a time into the memory of one batch",
        ),
        Contestant(
            name=f"raw reads into a small buffer, {codec}",
            subject=subject,
            passes=PASSES,
            note="as large as the largest file: stays in the processor's cache, holds no batch",
        ),
    ]


def hold_contest(contestants: Sequence[Contestant], *, cold: bool, repeats: int, progress: Progress) -> Standings:
    """Time everybody in turns.

    Warm, everything is in the page cache because it has been read before. Cold, a contestant's files are closed,
    dropped from the page cache and opened again before each turn, and read once.
    """
    with ExitStack() as stack:
        turns = [Turn(contestant, cold) for contestant in contestants]
        for turn in turns:
            stack.callback(turn.close)
        variants = [Variant(turn.contestant.name, turn.read, before=turn.prepare, after=turn.rest) for turn in turns]
        seconds = time_interleaved(variants, repeats=repeats, progress=progress)
    state = "cold" if cold else "warm"
    limits: dict[str, Row] = {}
    rows: list[Row] = []
    for turn in sorted(turns, key=lambda turn: not turn.contestant.is_limit):
        who = turn.contestant
        rate = seconds[who.name].rate(turn.passes * who.subject.nbytes / 1e9)
        row = measured(f"{state}: {who.name}", rate, "GB/s", of=limits.get(who.subject.codec), note=who.note)
        if who.is_limit:
            limits[who.subject.codec] = row
        else:
            rows.append(row)
    return Standings(tuple(limits.values()), tuple(rows), tuple(note for turn in turns for note in turn.notes(state)))


class Turn:
    """A contestant that is opened when its first turn comes, and anew for every turn if it is to start cold."""

    def __init__(self, contestant: Contestant, cold: bool) -> None:
        self.contestant = contestant
        self.passes = 1 if cold else contestant.passes
        # in the page cache before a turn: the most where nothing should be, the least where everything should
        self._cached = 0.0 if cold else 1.0
        self._cold = cold
        self._order = list(contestant.subject.order) * self.passes
        self._stack = ExitStack()
        self._read: Callable[[], object] | None = None

    def prepare(self) -> None:
        if self._cold:
            files = self.contestant.files()
            evict(files)
            self._cached = max(self._cached, cached_fraction(files))
        if self._read is None:
            self._read = self._open()

    def read(self) -> None:
        if self._read is None:
            raise RuntimeError("prepare() comes first")
        self._read()

    def rest(self) -> None:
        """What stays open may hold maps of files, and their pages could not be dropped for the next contestant."""
        if self._cold:
            self.close()

    def notes(self, state: str) -> list[str]:
        """What to say where the page cache did not hold what it should, or held what it should not."""
        if abs(self._cached - (not self._cold)) <= FEW_PAGES:
            return []
        return [f"{state}: {self._cached:.0%} of the files of {self.contestant.name} were in the page cache"]

    def close(self) -> None:
        if not self._cold and self._read is not None:
            self._cached = cached_fraction(self.contestant.files())
        self._read = None
        self._stack.close()

    def _open(self) -> Callable[[], object]:
        who = self.contestant
        if who.reader is None:
            return RawReader(list(who.subject.files) * self.passes, threads=THREADS, memory=who.memory).read
        deliver: Deliver = self._stack.enter_context(who.reader.open())
        return partial(consume, deliver, self._order)
