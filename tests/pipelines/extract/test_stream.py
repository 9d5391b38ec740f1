"""The stream's own promises, with stages that are watched: bounded, in step, stoppable, and honest about errors."""

import threading
import time
from dataclasses import dataclass, field

import pytest
import torch

from mettle_cache.errors import MediaError, NoRoomError
from mettle_cache.pipelines.extract.extractor import PreparedClip
from mettle_cache.pipelines.extract.stream import AHEAD, Outcome, reproducible_passes, stream_clips


@dataclass
class WatchedExtractor:
    """Counts the clips that are decoded and not yet written."""

    size: int = 1
    passes_at_once: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bad: frozenset = frozenset()
    decoded: set = field(default_factory=set)
    alive: int = 0
    most_alive: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def groups(self, indexes):
        return [list(indexes[start : start + self.size]) for start in range(0, len(indexes), self.size)]

    def prepare(self, index):
        if index in self.bad:
            raise MediaError(f"file {index} is broken")
        with self.lock:
            self.decoded.add(index)
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        return PreparedClip(index, (), f"{index:032x}")

    def encode(self, clips):
        with self.lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self.lock:
            self.at_once -= 1
        return {clip.index: {"tokens": clip.index} for clip in clips}

    def describe(self, error):
        return error.message


@dataclass
class Ledger:
    """A writer that remembers."""

    extractor: WatchedExtractor
    full_after: int = 10**9
    written: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)

    def write_clip(self, index, tokens, *, source):
        if len(self.written) >= self.full_after:
            raise NoRoomError("the disk is full")
        with self.extractor.lock:
            self.extractor.alive -= 1
            self.written[index] = (tokens["tokens"], source)
        return 7

    def fail_clip(self, index, error, source=None):
        self.failed[index] = error


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_every_clip_comes_out_once_with_its_own_tokens(size, count):
    extractor = WatchedExtractor(size=size)
    ledger = Ledger(extractor)
    outcomes = list(stream_clips(extractor, ledger, list(range(count)), threading.Event()))
    assert [outcome.index for outcome in outcomes] == list(range(count))
    assert ledger.written == {index: (index, f"{index:032x}") for index in range(count)}
    assert all(outcome == Outcome(outcome.index, nbytes=7) for outcome in outcomes)


@pytest.mark.parametrize("count", [50, 500])
def test_clips_under_way_are_bounded_whatever_the_size_of_the_data_set(count):
    extractor = WatchedExtractor(size=2)
    for _ in stream_clips(extractor, Ledger(extractor), list(range(count)), threading.Event()):
        pass
    assert extractor.most_alive <= extractor.size * (extractor.passes_at_once + AHEAD)


def test_passes_overlap_up_to_the_number_at_once():
    extractor = WatchedExtractor(passes_at_once=3)
    list(stream_clips(extractor, Ledger(extractor), list(range(100)), threading.Event()))
    assert extractor.most_at_once == 3


def test_a_bad_clip_fails_alone_even_within_a_batch():
    extractor = WatchedExtractor(size=4, bad=frozenset({1, 2, 8, 9, 10, 11}))
    ledger = Ledger(extractor)
    outcomes = list(stream_clips(extractor, ledger, list(range(14)), threading.Event()))
    assert ledger.failed == {index: f"file {index} is broken" for index in extractor.bad}
    assert {outcome.index for outcome in outcomes if outcome.error} == extractor.bad
    assert set(ledger.written) == set(range(14)) - extractor.bad


def test_a_full_disk_ends_the_stream():
    extractor = WatchedExtractor()
    ledger = Ledger(extractor, full_after=5)
    with pytest.raises(NoRoomError, match="the disk is full"):
        list(stream_clips(extractor, ledger, list(range(1000)), threading.Event()))
    assert len(ledger.written) == 5
    assert len(extractor.decoded) < 50


def test_stop_ends_soon_and_every_commit_is_reported():
    extractor, stop, seen = WatchedExtractor(), threading.Event(), []
    ledger = Ledger(extractor)
    for outcome in stream_clips(extractor, ledger, list(range(1000)), stop):
        seen.append(outcome.index)
        if len(seen) == 10:
            stop.set()
    assert sorted(seen) == sorted(ledger.written)
    assert 10 <= len(seen) <= 10 + extractor.passes_at_once + AHEAD


def test_a_defect_is_raised_not_recorded_as_a_bad_clip():
    extractor = WatchedExtractor()
    ledger = Ledger(extractor)
    extractor.encode = lambda clips: 1 // 0
    with pytest.raises(ZeroDivisionError):
        list(stream_clips(extractor, ledger, [0, 1, 2], threading.Event()))
    assert not ledger.failed


def test_pytorch_gets_its_threads_back():
    before = torch.get_num_threads()
    with reproducible_passes(torch.device("cpu")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
