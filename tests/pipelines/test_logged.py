"""Notes that are shown and kept: each in the logs that it is about, those from before the logs too."""

import pytest

from mettle_cache.errors import RunError
from mettle_cache.pipelines.logged import Logged
from tests.pipelines.listener import Listener


def texts(path):
    """The lines' kinds and texts, without their times and what differs between machines."""
    lines = [line.split(maxsplit=2)[1:] for line in path.read_text().splitlines() if not line.startswith(" ")]
    return [tuple(line) for line in lines if line[0] not in ("start", "version", "end")]


def test_notes_go_to_the_user_and_to_the_logs_that_they_are_about(tmp_path):
    heard = Listener()
    logged = Logged(heard)
    logged.note("before")
    files = {"a": tmp_path / "a.txt", "b": tmp_path / "b.txt"}
    with logged.kept_in(files, [("store", "s.zarr")]):
        logged.note("to all")
        logged.note_of("b", "loss 1", begin="epoch 1: ")
        logged.log("result", "fine", of="a")
    with logged.kept_in({"a": files["a"]}, []):
        logged.note("again")
    assert heard.notes == ["before", "to all", "epoch 1: b: loss 1", "again"]
    common = [("store", "s.zarr"), ("note", "before"), ("note", "to all")]
    assert texts(files["a"]) == [*common, ("result", "fine"), ("note", "before"), ("note", "again")]
    assert texts(files["b"]) == [*common, ("note", "epoch 1: loss 1")]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RunError("no such layer", hint="choose another"), "no such layer\n  next: choose another\n"),
        (KeyboardInterrupt(), "interrupted\n"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero\n"),
    ],
)
def test_an_error_that_ends_the_work_is_the_last_thing_before_the_end(tmp_path, error, line):
    logged = Logged(Listener())
    with pytest.raises(type(error)), logged.kept_in({"": tmp_path / "log.txt"}, []):
        raise error
    text = (tmp_path / "log.txt").read_text()
    assert f" error     {line}" in text
    assert " end       after 0.0 s\n" in text


def test_a_log_that_cannot_be_written_is_said_and_the_work_goes_on(tmp_path):
    heard = Listener()
    with Logged(heard).kept_in({"": tmp_path / "missing" / "log.txt"}, []):
        pass
    (note,) = heard.notes
    assert "the work goes on without its log" in note
