"""Progress: rate, time left and bytes in every line; few lines; nothing on stdout."""

import io

import pytest

from mettle_cache.pipelines.progress import Meter, PlainProgress, RichProgress, Silent, terminal_progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_line_every_few_seconds_with_rate_bytes_and_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = PlainProgress(stream, every=5, clock=clock)
    progress.start(100, "clips", "extract")
    for _ in range(40):
        clock.now += 0.5
        progress.advance(1, nbytes=1_000_000)
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "extract: 100 clips",
        "extract: 10/100 2.00 clips/s, 10.0 MB, 45 s left",
        "extract: 20/100 2.00 clips/s, 20.0 MB, 40 s left",
        "extract: 30/100 2.00 clips/s, 30.0 MB, 35 s left",
        "extract: 40/100 2.00 clips/s, 40.0 MB, 30 s left",
        "extract: 40 clips in 20 s, 40.0 MB",
    ]


def test_fast_work_is_no_flood():
    stream = io.StringIO()
    progress = PlainProgress(stream)
    progress.start(10_000, "clips", "verify")
    for _ in range(10_000):
        progress.advance()
    progress.finish()
    assert len(stream.getvalue().splitlines()) == 2


def test_a_meter_knows_nothing_before_the_first_item():
    meter = Meter(10, "clips", Clock())
    assert meter.rate == 0
    assert meter.describe() == "0.0000 clips/s, ? left"


@pytest.mark.parametrize("kind", [Silent, PlainProgress, RichProgress])
def test_every_display_takes_the_same_calls_and_keeps_off_stdout(kind, capsys):
    progress = kind()
    progress.finish()
    progress.advance()
    for what in ("first", "second"):
        progress.start(2, "clips", what)
        progress.advance(1, nbytes=10)
        progress.note("a note with [brackets]")
        progress.advance(1, nbytes=10)
        progress.finish()
        progress.finish()
    streams = capsys.readouterr()
    assert streams.out == ""
    if kind is not Silent:
        assert streams.err.count("a note with [brackets]") == 2


def test_a_pipe_gets_lines_and_a_terminal_a_bar(monkeypatch):
    assert isinstance(terminal_progress(), PlainProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(terminal_progress(), RichProgress)
