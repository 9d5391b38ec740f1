"""Progress: rate, time left and bytes in every line; few lines; nothing on stdout."""

import io
import re

import pytest

from mettle_cache.pipelines.progress import Meter, PlainProgress, RichProgress, Silent, stop_bars, terminal_progress


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


def work(meter, clock, items, seconds_each):
    for _ in range(items):
        clock.now += seconds_each
        meter.add(1, 0)


def test_time_left_comes_from_recent_items_and_not_from_the_first():
    clock = Clock()
    meter = Meter(1000, "clips", clock)
    work(meter, clock, 1, 300)
    assert meter.seconds_left == pytest.approx(999 * 300)
    work(meter, clock, 120, 0.5)
    assert meter.rate == pytest.approx(2, rel=0.02)
    assert meter.seconds_left == pytest.approx(879 / 2, rel=0.02)
    work(meter, clock, 60, 2)
    assert meter.rate == pytest.approx(0.5, rel=0.02)
    assert meter.seconds == 480


def test_items_of_minutes_are_averaged_over_twenty():
    clock = Clock()
    meter = Meter(1000, "clips", clock)
    work(meter, clock, 1, 3000)
    work(meter, clock, 25, 240)
    assert meter.seconds_left == pytest.approx(974 * 240)
    work(meter, clock, 1, 480)
    assert meter.rate == pytest.approx(20 / (19 * 240 + 480), rel=0.06)


def test_many_fast_items_take_no_memory_and_a_standstill_is_seen():
    clock = Clock()
    meter = Meter(10**6, "clips", clock)
    work(meter, clock, 100_000, 0.01)
    assert meter.rate == pytest.approx(100, rel=0.02)
    assert len(meter._marks) < 100
    clock.now += 60
    assert meter.rate == pytest.approx(50, rel=0.02)


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


@pytest.mark.parametrize("kind", [PlainProgress, RichProgress])
def test_markup_in_a_name_is_text(kind, capsys):
    progress = kind()
    progress.start(1, "[/] clips", "verify [red]a[/red] [/] :smile: \x1b[31m")
    progress.note("[bold]clip[/bold] [/] :smile: \x1b[2J")
    progress.advance()
    progress.finish()
    said = capsys.readouterr().err
    assert "[bold]clip[/bold] [/] :smile: \\x1b[2J" in said
    assert "verify [red]a[/red] [/] :smile:" in said
    assert "\x1b[31m" not in said
    assert "\x1b[2J" not in said


def test_one_is_told_as_one():
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=Clock())
    progress.start(1, "frames", "extract")
    progress.advance()
    progress.finish()
    assert stream.getvalue().splitlines() == ["extract: 1 frame", "extract: 1 frame in 0.0 s"]


def test_a_narrow_terminal_has_all_that_matters_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = RichProgress()
    progress.start(4097, "clips", "extract on scheduler tcp://10.0.0.1:8786")
    progress.advance(156, nbytes=10**9)
    progress.finish()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).strip().splitlines()[-1].split("\r")[-1]
    assert len(last) <= 60
    assert " 156/4097 " in last
    assert last.startswith("extract on sche… ")


def test_bars_that_are_left_behind_are_ended_and_the_cursor_is_back(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = RichProgress()
    progress.start(10, "clips", "extract")
    stop_bars()
    shown = capsys.readouterr().err
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0
    stop_bars()
    progress.finish()
    assert capsys.readouterr().err == ""
