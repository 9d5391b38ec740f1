"""The stream's own promises, with stages that are watched: bounded, in step, stoppable, and honest about errors."""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from mettle_cache.errors import MachineError, MediaError, NoRoomError, TokensError
from mettle_cache.pipelines.extract.extractor import PreparedClip
from mettle_cache.pipelines.extract.stream import AHEAD, Outcome, reproducible_passes, stream_clips


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@dataclass
class WatchedExtractor:
    """Counts the clips that are decoded and not yet written."""

    size: int = 1
    passes_at_once: int = 2
    decoders: int = 3
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bad: frozenset = frozenset()
    decoded: set = field(default_factory=set)
    alive: int = 0
    most_alive: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    dataset: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(clips=[SimpleNamespace(id=f"clip{index}") for index in range(1000)])
    )

    @property
    def clips_a_batch(self):
        return self.size

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
    refused: set = field(default_factory=set)
    written: dict = field(default_factory=dict)

    def write_clip(self, index, tokens, *, source):
        if len(self.written) >= self.full_after:
            raise NoRoomError("the disk is full")
        if index in self.refused:
            raise TokensError("not finite", hint="use float32")
        with self.extractor.lock:
            self.extractor.alive -= 1
            self.written[index] = (tokens["tokens"], source)
        return 7


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_every_clip_comes_out_once_with_its_own_tokens(size, count):
    extractor = WatchedExtractor(size=size)
    ledger = Ledger(extractor)
    outcomes = list(stream_clips(extractor, ledger, list(range(count)), threading.Event()))
    assert sorted(outcome.index for outcome in outcomes) == list(range(count))
    assert ledger.written == {index: (index, f"{index:032x}") for index in range(count)}
    expected = [Outcome(index, nbytes=7, source=f"{index:032x}") for index in range(count)]
    assert sorted(outcomes, key=lambda outcome: outcome.index) == expected


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


@dataclass
class Gate(Ledger):
    """A writer that is stuck until it is opened."""

    opened: threading.Event = field(default_factory=threading.Event)

    def write_clip(self, index, tokens, *, source):
        assert self.opened.wait(30)
        return super().write_clip(index, tokens, source=source)


def wait_until(condition):
    limit = time.monotonic() + 30
    while not condition() and time.monotonic() < limit:
        time.sleep(0.001)
    assert condition()


def run_in_thread(extractor, writer, count):
    """Whole stream in a thread of its own; returns it and where its outcomes go."""
    outcomes = []
    stream = stream_clips(extractor, writer, list(range(count)), threading.Event())
    thread = threading.Thread(target=lambda: outcomes.extend(stream))
    thread.start()
    return thread, outcomes


@pytest.mark.parametrize("size", [1, 4])
def test_a_slow_disk_stops_the_passes_only_when_everything_that_may_be_under_way_waits_for_it(size):
    extractor, encoded = WatchedExtractor(size=size), []
    encode = extractor.encode

    def noted(clips):
        encoded.extend(clip.index for clip in clips)
        return encode(clips)

    extractor.encode = noted
    writer = Gate(extractor)
    thread, outcomes = run_in_thread(extractor, writer, 100)
    most = size * (extractor.passes_at_once + AHEAD)
    wait_until(lambda: len(encoded) == most)
    time.sleep(0.2)
    assert (len(encoded), writer.written, outcomes) == (most, {}, [])
    writer.opened.set()
    thread.join(30)
    assert set(writer.written) == {outcome.index for outcome in outcomes} == set(range(100))


def test_a_pass_whose_codes_are_on_their_way_does_not_keep_another_from_computing():
    extractor, computed, arrived = WatchedExtractor(passes_at_once=2), [], threading.Event()
    encode = extractor.encode

    def copying(clips):
        codes = encode(clips)
        computed.append(clips[0].index)
        if clips[0].index == 0:
            assert arrived.wait(30)
        return codes

    extractor.encode = copying
    ledger = Ledger(extractor)
    thread, outcomes = run_in_thread(extractor, ledger, 100)
    # all that may be under way beside the clip that does not arrive
    wait_until(lambda: len(outcomes) == 99)
    assert 0 not in ledger.written
    arrived.set()
    thread.join(30)
    assert set(ledger.written) == set(computed) == set(range(100))


def test_a_bad_clip_fails_alone_even_within_a_batch():
    extractor = WatchedExtractor(size=4, bad=frozenset({1, 2, 8, 9, 10, 11}))
    ledger = Ledger(extractor)
    outcomes = list(stream_clips(extractor, ledger, list(range(14)), threading.Event()))
    failed = {outcome.index: outcome.error for outcome in outcomes if outcome.error}
    assert failed == {index: f"file {index} is broken" for index in extractor.bad}
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


def test_as_many_clips_are_decoded_at_once_as_there_are_decoders():
    extractor, prepare, together = WatchedExtractor(size=4, decoders=6), WatchedExtractor.prepare, threading.Barrier(6)

    def with_five_others(index):
        together.wait(30)
        return prepare(extractor, index)

    extractor.prepare = with_five_others
    assert len(list(stream_clips(extractor, Ledger(extractor), list(range(24)), threading.Event()))) == 24


def spoil(extractor, bad, error):
    """Let every pass fail that one of these clips is in."""
    encode = extractor.encode

    def spoilt(clips):
        if bad & {clip.index for clip in clips}:
            raise error
        return encode(clips)

    extractor.encode = spoilt


@pytest.mark.parametrize("size", [1, 4])
def test_a_clip_that_spoils_its_pass_fails_alone(size):
    extractor = WatchedExtractor(size=size)
    ledger = Ledger(extractor)
    spoil(extractor, {2, 9}, ZeroDivisionError("division by zero"))
    outcomes = list(stream_clips(extractor, ledger, list(range(14)), threading.Event()))
    failed = {outcome.index: outcome.error for outcome in outcomes if outcome.error}
    assert failed == dict.fromkeys((2, 9), "ZeroDivisionError: division by zero")
    assert set(ledger.written) == set(range(14)) - {2, 9}


def test_tokens_that_the_store_refuses_fail_their_clip_with_the_hint():
    extractor = WatchedExtractor()
    ledger = Ledger(extractor, refused={3})
    outcomes = list(stream_clips(extractor, ledger, list(range(6)), threading.Event()))
    (failed,) = [outcome for outcome in outcomes if outcome.error]
    assert failed == Outcome(3, error="not finite", hint="use float32")
    assert set(ledger.written) == {0, 1, 2, 4, 5}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            r"the device cpu failed .* clip clip2: ",
        ),
        (RuntimeError("CUDA error: an illegal memory access\nwas met"), "an illegal memory access\n  next"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory ran out while .* clip2"),
        (MemoryError(), "memory ran out while .* clip2"),
    ],
)
def test_a_lost_device_or_the_machines_memory_ends_the_stream_and_names_the_clips(error, message):
    extractor = WatchedExtractor()
    spoil(extractor, {2}, error)
    with pytest.raises(MachineError, match=message) as caught:
        list(stream_clips(extractor, Ledger(extractor), list(range(100)), threading.Event()))
    assert caught.value.hint
    assert len(extractor.decoded) < 50


def test_stop_does_not_wait_for_a_pass_and_nothing_of_it_is_written_later():
    extractor, stop, begun, go_on = WatchedExtractor(), threading.Event(), threading.Event(), threading.Event()
    ledger, encode = Ledger(extractor), extractor.encode

    def slow(clips):
        if clips[0].index >= 3:
            begun.set()
            go_on.wait(30)
        return encode(clips)

    extractor.encode = slow
    threading.Thread(target=lambda: (begun.wait(30), time.sleep(0.05), stop.set())).start()
    started = time.monotonic()
    outcomes = list(stream_clips(extractor, ledger, list(range(100)), stop))
    assert time.monotonic() - started < 2
    written = dict(ledger.written)
    assert {outcome.index for outcome in outcomes} == set(written) == {0, 1, 2}
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("forward"):
            thread.join(30)
    assert ledger.written == written


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_pytorch_keeps_to_one_thread_and_gets_its_threads_back(device, two_threads):
    before = torch.get_num_threads()
    assert before == 2
    with reproducible_passes(torch.device(device)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
