"""When clips that fail are the exception, and when they are the rule."""

from pathlib import Path

import pytest

from mettle_cache.pipelines.extract.failures import LISTED, MOST_BEFORE_A_SUCCESS, EveryClipFailsError, Failures
from mettle_cache.pipelines.extract.stream import Outcome


class Book:
    """A writer that remembers what is recorded."""

    path = Path("s.zarr")

    def __init__(self, *before, clips=100):
        self.clips = [f"clip{index}" for index in range(clips)]
        self.known = dict(enumerate(before))
        self.failed = {}

    def statuses(self):
        return [self.known.get(index) for index in range(len(self.clips))]

    def fail_clip(self, index, error):
        self.failed[index] = error
        self.known[index] = "failed"


def failing(failures, indexes, reason="broken"):
    for index in indexes:
        failures.add(Outcome(index, error=reason))


def test_failures_before_the_first_success_are_recorded_with_it():
    book = Book()
    failures = Failures.of_run(book, skip=False)
    failing(failures, range(MOST_BEFORE_A_SUCCESS - 1))
    assert not book.failed
    failures.add(Outcome(50, nbytes=7))
    assert list(book.failed) == list(range(MOST_BEFORE_A_SUCCESS - 1))
    failing(failures, range(60, 99))
    failures.close()
    assert len(book.failed) == MOST_BEFORE_A_SUCCESS - 1 + 39


@pytest.mark.parametrize("skip", [False, True])
def test_the_first_twenty_failing_stop_the_run_and_nothing_is_recorded(skip):
    book = Book()
    failures = Failures.of_run(book, skip=skip)
    failing(failures, range(MOST_BEFORE_A_SUCCESS - 1), "ValueError: no such codec")
    with pytest.raises(EveryClipFailsError, match="first 20 clips all failed") as caught:
        failing(failures, [40], "another")
    assert "clip0 and 18 others: ValueError: no such codec" in caught.value.message
    assert "clip40: another" in caught.value.message
    assert "--skip-missing" in caught.value.hint
    assert not book.failed


def test_a_small_set_of_failures_alone_is_not_recorded():
    book = Book(clips=3)
    failures = Failures.of_run(book, skip=True)
    failures.add(Outcome(0, error="values to inf", hint="use float32"))
    failing(failures, [1, 2])
    with pytest.raises(EveryClipFailsError, match="none of the 3 clips could be extracted") as caught:
        failures.close()
    assert caught.value.hint == "use float32"
    assert not book.failed


def test_a_store_of_nothing_but_missing_clips_is_not_finished():
    book = Book(clips=LISTED + 2)
    failures = Failures.of_run(book, skip=True)
    for index in range(LISTED + 2):
        failures.leave_out(index, f"file {index} is missing")
    with pytest.raises(EveryClipFailsError, match="none of 7 clips has tokens") as caught:
        failures.close()
    assert "and 2 other reasons" in caught.value.message


def test_a_part_of_nothing_but_missing_clips_is_recorded():
    book = Book(clips=4)
    failures = Failures.of_run(book, skip=True)
    for index in range(2):
        failures.leave_out(index, "is missing")
    failures.close()
    assert list(book.failed) == [0, 1]


def test_a_run_that_goes_on_takes_what_is_stored_as_a_success_where_clips_may_be_left_out():
    book = Book("ok")
    failures = Failures.of_run(book, skip=True)
    failing(failures, range(1, 40))
    assert list(book.failed) == list(range(1, 40))


def test_a_run_that_goes_on_and_only_fails_stops_where_nothing_may_be_left_out():
    book = Book("ok")
    failures = Failures.of_run(book, skip=False)
    failing(failures, range(1, 20))
    with pytest.raises(EveryClipFailsError):
        failing(failures, [20])
    few = Failures.of_run(book, skip=False)
    failing(few, range(1, 20))
    few.close()
    assert len(book.failed) == 19


def test_clips_that_fail_again_say_nothing_new():
    book = Book(*["failed"] * 40, "ok")
    failures = Failures.of_run(book, skip=False)
    failing(failures, range(40))
    failures.close()
    assert len(book.failed) == 40
