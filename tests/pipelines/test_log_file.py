"""The log of a folder: whole lines, appended, whatever lies in its place and whatever the disk does."""

import os
import re
import resource
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from mettle_cache.pipelines.log_file import LogFile

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def test_lines_have_a_time_and_a_kind_and_go_below_the_earlier_ones(tmp_path):
    path = tmp_path / "log.txt"
    for text in ("one", "two\nforged\x1b[31m"):
        log = LogFile(path, pytest.fail)
        log.write("note", text)
        log.write("end", "later", at=datetime(2026, 1, 31, 12, tzinfo=UTC))
        log.close()
        log.write("note", "closed: not written")
    first, second, third, indented, last = path.read_text().splitlines()
    assert re.fullmatch(f"{TIME} note      one", first)
    assert second == last == "2026-01-31T12:00:00Z end       later"
    assert re.fullmatch(f"{TIME} note      two", third)
    assert indented == r"  forged\x1b[31m"


def test_what_was_written_survives_a_kill(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from mettle_cache.pipelines.log_file import LogFile\n"
        "log = LogFile(Path(sys.argv[1]), print); log.write('note', 'said'); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "log.txt"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text().endswith("note      said\n")


def test_a_line_that_was_cut_off_is_ended_first(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("2026-01-31T12:00:00Z note      cut o")
    LogFile(path, pytest.fail).write("note", "whole")
    cut, whole = path.read_text().splitlines()
    assert cut.endswith("cut o")
    assert whole.endswith("whole")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing folder"])
def test_what_is_no_file_is_told_once_and_left_alone(tmp_path, kind):
    path, other = tmp_path / "log.txt", tmp_path / "other"
    other.write_text("kept")
    make = {"link": lambda: path.symlink_to(other), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}
    make.get(kind, lambda: None)()
    told = []
    log = LogFile(path / "log.txt" if kind == "missing folder" else path, told.append)
    log.write("note", "lost")
    log.write("note", "lost too")
    assert len(told) == 1
    assert re.match(rf"{re.escape(str(log.path))} cannot be written \(.+\): the work goes on without its log", told[0])
    assert other.read_text() == "kept"


def test_a_full_disk_ends_the_log_and_not_the_work(tmp_path):
    told = []
    log = LogFile(tmp_path / "log.txt", told.append)
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limit[1]))
    try:
        for _ in range(3):
            log.write("note", "thirty characters of a long line")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(told) == 1
    assert "cannot be written" in told[0]
